"""A disk that is full, then read-only, then well again, as a file system of its own that ends with the test."""

import os
import re
import shutil
import subprocess

import pytest

from tests.workflow.conftest import Workflow
from tests.workflow.planning import ROOT

pytestmark = pytest.mark.workflow

# In a mount namespace of its own the file system vanishes with the shell.
SCRIPT = """
mount -t tmpfs -o size=100k none results || exit 99
"$@" > full 2>&1; echo $? > full.status
mount -o remount,size=100m,ro results
"$@" > readonly 2>&1; echo $? > readonly.status
mount -o remount,rw results
"$@" > well 2>&1; echo $? > well.status
cp -r results kept
"""


def may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs root and mount namespaces")
def test_a_full_or_read_only_disk_is_named_and_the_next_start_goes_on(tmp_path, tiny, finished):
    workflow = Workflow(tmp_path)
    (tmp_path / "results").mkdir()
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", *workflow.command(tiny, "--until", "sweep")]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    text = {name: (tmp_path / name).read_text() for name in ("full", "readonly", "well")}
    status = {name: int((tmp_path / f"{name}.status").read_text()) for name in text}
    assert status["full"] != 0
    assert re.search(r"OSError: .*cannot write results/\S+: No space left on device", text["full"])
    assert "gwprune: [Errno 28] No space left on device" not in text["full"]
    assert "Logging error" not in text["full"]
    assert status["readonly"] != 0
    assert re.search(r"Read-only file system: '?results/\S+", text["readonly"])
    assert status["well"] == 0, text["well"]
    (tmp_path / "results").rmdir()
    (tmp_path / "kept").rename(tmp_path / "results")
    for pattern, name in (("training.parquet", "training"), ("one_shot/*.parquet", "sweep")):
        assert workflow.job_tables(pattern, name) == finished.job_tables(pattern, name)
    assert not workflow.unfinished()
