"""The workflow as a part of another one: ``module`` with a configuration and a prefix of its own."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import yaml

from gwprune.config import Config
from gwprune.config.plan import Plan
from gwprune.config.settings import settings_of
from gwprune.jobs.rules import WORK, own_name
from tests.workflow.planning import ROOT, dry_run

pytestmark = pytest.mark.workflow

OUTER = f"""
configfile: "outer.yaml"

module gwprune:
    snakefile: "{ROOT}/Snakefile"
    config: config["pruning_limits"]
    prefix: "limits"

use rule * from gwprune as gwprune_*

rule page:
    default_target: True
    input: rules.gwprune_all.input
    output: "page.txt"
    shell: "cat {{input}} > {{output}}"
"""


def plan_of(directory, config: dict, *arguments: str, status: int = 0) -> str:
    (directory / "Snakefile").write_text(OUTER)
    (directory / "outer.yaml").write_text(
        yaml.safe_dump({"training": "of the outer workflow", "pruning_limits": config})
    )
    words = ("--snakefile", directory / "Snakefile", "--workflow-profile", "none", "--cores", "1", *arguments)
    return dry_run(directory, *words, status=status)


def test_another_workflow_plans_it_under_its_prefix(tmp_path, tiny):
    text = plan_of(tmp_path, tiny, "--printshellcmds")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text.partition("Job stats:")[2], re.MULTILINE))
    assert jobs["page"] == jobs["gwprune_train"] == jobs["gwprune_aggregate"] == "1"
    assert "limits/results/tables/thresholds.parquet" in text
    assert re.search(r"(?<!limits/)results/\w", text) is None
    assert not (tmp_path / "limits").exists()


def test_its_configuration_is_checked_as_ever(tmp_path, tiny):
    text = plan_of(tmp_path, {**tiny, "sparsities": [0.5]}, status=1)
    assert "sparsities: unknown key" in text


def test_files_that_no_rule_declares_lie_under_the_prefix_too(tiny):
    plan = Plan(Config(**tiny), placed="limits/".__add__)
    at = SimpleNamespace(run="tiny_l1-1e-3", seed=0, operator="hessian", probe=0, method="magnitude")
    told = settings_of(plan, "spectrum", at)["checkpoint"], settings_of(plan, "bracket", at)["points"]
    files = [item["file"] for item in (*plan.benchmarks(at.run), *plan.shared_benchmarks())]
    assert [path for path in (*told, *files) if not path.startswith("limits/results/")] == []


@pytest.mark.parametrize("name", WORK)
def test_a_job_knows_its_rule_behind_any_prefix(name):
    assert own_name(name) == own_name(f"gwprune_{name}") == own_name(f"train_{name}") == name


def test_a_rule_that_is_not_this_workflows_is_refused():
    with pytest.raises(ValueError, match="rule 'train_x' is none of this workflow"):
        own_name("train_x")


def test_the_catalog_file_is_what_the_catalog_reads():
    """Keys of the catalog of Snakemake workflows: flags as text, each way of deployment as a truth value."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert all(type(value) is bool for value in usage["software-stack-deployment"].values())
    assert usage["report"] is True
