"""The cluster profile, without a cluster: its keys, its rules, and the literal command's plan."""

import os
import re
import shlex
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command, safe_quote
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from gwprune.spectral.predictors import PREDICTORS
from tests.workflow.planning import ROOT, dry_run

pytestmark = pytest.mark.workflow

PROFILE = ROOT / "profiles/slurm/config.yaml"
KEYS = (
    "gpu_model|constraint|qos|mem_mb|runtime|cpus_per_task|gres|gpu|tasks_per_gpu|cpus_per_gpu|"
    "slurm_account|slurm-partition-config|slurm-array-jobs|slurm-array-limit|slurm-reservation"
)


class AttrDict(dict):
    """Resources as the plugin reads them: by key and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def uncommented() -> str:
    """The profile with every optional key switched on."""
    return re.sub(rf"^(\s*)# ({KEYS}):", r"\1\2:", PROFILE.read_text(), flags=re.MULTILINE)


def resources_of(text: str, rule: str) -> str:
    return re.search(rf"^(?:rule|localrule) {rule}:\n(?:    .*\n)*?    resources: (.*)", text, re.MULTILINE).group(1)


def test_rules_without_a_gpu_are_those_that_the_profile_sends_elsewhere(tmp_path):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["sparse_training"]["methods"] += ["synflow", "imp"]  # so that every rule has a job
    config.setdefault("spectrum", {})["predictors"] = list(PREDICTORS)
    (tmp_path / "every.yaml").write_text(yaml.safe_dump(config))
    text = dry_run(tmp_path, "--profile", "slurm", "--forceall", "--configfile", tmp_path / "every.yaml")
    for rule, asked in yaml.safe_load(PROFILE.read_text())["set-resources"].items():
        found = resources_of(text, rule)
        assert ("gpu=1" in found) == (asked["slurm_partition"] == "gpu"), rule
        assert f"slurm_partition={asked['slurm_partition']}" in found
        assert "slurm_extra=--signal=TERM@90" in found


def test_the_literal_command_needs_nothing_outside_the_clone():
    assert (ROOT / "slurm").is_symlink()
    assert os.readlink(ROOT / "slurm") == "profiles/slurm"


def test_jobs_stay_in_their_environment_when_a_profile_asks_for_conda(tmp_path):
    assert "This was a dry-run" in dry_run(tmp_path, "--cores", "1", "--software-deployment-method", "conda")


def test_every_key_can_be_switched_on(tmp_path):
    assert yaml.safe_load(uncommented())["set-resources"]["train"].keys() >= set(KEYS.split("|")[:6])
    (tmp_path / "config.yaml").write_text(uncommented())
    text = dry_run(tmp_path, "--profile", tmp_path, "--forceall")
    found = resources_of(text, "train")
    more = ("gres=gpu:a100:1", "gpu=0", "tasks_per_gpu=1", "cpus_per_gpu=8")
    for word in (*more, "gpu_model=a100", "constraint=a100|h100", "mem_mb=16000", "runtime=240", "cpus_per_task=8"):
        assert word in found
    assert "gpu_model" not in resources_of(text, "aggregate")


def variants() -> list[tuple[str, str]]:
    """(set-resources, options of sbatch) of the table in docs/cluster.md."""
    section = (ROOT / "docs/cluster.md").read_text().partition("## What clusters ask for")[2].partition("\n## ")[0]
    return re.findall(r"\| `(\{.*\})` \| `(.*)` \|$", section, re.MULTILINE)


@pytest.mark.parametrize(("asked", "options"), variants())
def test_the_plugin_makes_of_the_documented_resources_what_is_documented(asked, options):
    own = AttrDict({"mem_mb": 8000, "runtime": 60, **yaml.safe_load(asked.replace("\\|", "|"))})
    job = SimpleNamespace(resources=own, threads=4)
    partition = f"-p {safe_quote(own['slurm_partition'])}" if "slurm_partition" in own else ""
    names = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "account", "workdir"), "")
    validate_slurm_extra(job)
    command = shlex.split(get_submit_command(job, {**names, "partition": partition}) + set_gres_string(job))
    wanted = shlex.split(options.replace("\\|", "|"))
    assert " ".join(wanted) in " ".join(command) or all(word in command for word in wanted), command
    kinds = [word for word in command if re.match("--(gpus|gres)=", word)]
    assert len(kinds) == 1, command
    if "cpus-per-gpu" in options:
        assert not [word for word in command if word.startswith("--cpus-per-task")]


def test_the_documented_variants_are_found():
    assert len(variants()) >= 10


def test_every_key_has_a_comment():
    lines = PROFILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z-]+:", line):
            assert lines[number - 1].lstrip().startswith("#"), line
