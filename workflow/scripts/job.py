import os
import signal
import sys

# Ctrl-C while the job still imports ends it without a word; later the job handles it.
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from gwprune.jobs.rules import run  # noqa: E402

run(snakemake)
# All is written. To take PyTorch down module by module would last longer than many jobs.
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
