import signal

# Ctrl-C while the job still imports ends it without a word; later the job handles it.
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from gwprune.jobs.rules import run  # noqa: E402

run(snakemake)
