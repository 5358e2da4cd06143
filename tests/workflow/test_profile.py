"""The cluster profile, without a cluster: its keys, its rules, and the literal command's plan."""

import os
import re

import pytest
import yaml

from gwprune.spectral.predictors import PREDICTORS
from tests.workflow.planning import ROOT, dry_run

pytestmark = pytest.mark.workflow

PROFILE = ROOT / "profiles/slurm/config.yaml"
KEYS = "gpu_model|constraint|qos|mem_mb|runtime|cpus_per_task|slurm_account|slurm-partition-config"


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


def test_every_key_can_be_switched_on(tmp_path):
    assert yaml.safe_load(uncommented())["set-resources"]["train"].keys() >= set(KEYS.split("|")[:6])
    (tmp_path / "config.yaml").write_text(uncommented())
    text = dry_run(tmp_path, "--profile", tmp_path, "--forceall")
    found = resources_of(text, "train")
    for word in ("gpu_model=a100", "constraint=a100|h100", "mem_mb=16000", "runtime=240", "cpus_per_task=8"):
        assert word in found
    assert "gpu_model" not in resources_of(text, "aggregate")


def test_every_key_has_a_comment():
    lines = PROFILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z-]+:", line):
            assert lines[number - 1].lstrip().startswith("#"), line
