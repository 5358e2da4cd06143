"""What a configuration asks for: its jobs, their files, and which of them a change concerns."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from gwprune import config
from gwprune.config.plan import RULES, SECTION_OF_RULE, WITH_PRODUCTS, Plan, PlannedJob, needs_gpu, section_of
from gwprune.config.settings import provenance_of, settings_of
from gwprune.jobs.rules import WORK, work_of
from gwprune.spectral.predictors import PREDICTORS
from gwprune.tables.schemas import RUN_TABLES

from .helpers_run import SMALLEST_2, VALUES, SmallRun, finished_run

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "experiments": [{"name": "tiny", "dataset": "digits", "network": "fc"}],
    "training": {"l1": 1e-3},
    "pruning": {"methods": ["magnitude", "taylor"], "sparsities": [0.3, 0.6, 0.9]},
    "fine_tuning": {"sparsities": [0.6]},
}


def planned(**sections) -> Plan:
    return Plan(config.load({**TINY, **sections}))


def jobs(plan: Plan, rule: str = "") -> list[PlannedJob]:
    """Jobs of one seed of all runs."""
    return [job for run in plan.runs for job in plan.jobs(run) if rule in ("", job.rule)]


def counts(plan: Plan) -> dict[str, int]:
    rules = [job.rule for job in jobs(plan)]
    return {rule: rules.count(rule) for rule in dict.fromkeys(rules)}


# --- jobs ---------------------------------------------------------------------------------------------------


def test_a_run_without_sparse_training_has_these_jobs():
    assert counts(planned()) == {
        "train": 1, "predict": 1, "spectrum": 2, "quadratic": 1, "statistical_dimension": 2,
        "rank": 1, "sweep": 2, "finetune": 2, "bracket": 1,
    }  # fmt: skip


def test_a_predictor_has_jobs_for_the_operators_that_it_can_be_computed_with():
    plan = planned(spectrum={"operators": ["hessian", "ggn"], "predictors": list(PREDICTORS)})
    for name in ("surgeon", "surgeon_step"):
        assert [job.wildcards for job in jobs(plan, name)] == [{"operator": "ggn"}]
        at = SimpleNamespace(run="tiny_l1-1e-3", seed="0", operator="ggn")
        assert settings_of(plan, name, at)["operators"] == ["ggn"]
    assert len(jobs(plan, "statistical_dimension")) == 2


def test_a_costly_predictor_is_asked_for_the_methods_that_are_fine_tuned():
    methods = {**VALUES["pruning"], "methods": ["magnitude", "taylor", "obd"]}
    at = SimpleNamespace(run="tiny_l1-1e-3", seed="0", operator="ggn")
    for tuned, expected in ((["taylor"], ["taylor"]), ([], ["magnitude"])):
        section = {"methods": tuned, "epochs": 1, "sparsities": [0.5]}
        asked = {"predictors": ["statistical_dimension", "surgeon"]}
        plan = planned(spectrum=asked, pruning=methods, fine_tuning=section)
        assert list(settings_of(plan, "surgeon", at)["methods"]) == expected
        assert len(plan.rankings("surgeon")(at).get("rankings", [])) == len(tuned)
        assert list(settings_of(plan, "statistical_dimension", at)["methods"]) == methods["methods"]
        assert len(plan.rankings("statistical_dimension")(at)["rankings"]) == 2


def test_only_methods_that_need_data_have_rankings_of_their_own():
    assert [job.name for job in jobs(planned(), "rank")] == ["taylor"]
    sparse = {"methods": ["snip", "smart_ratio", "taylor"]}
    assert [job.name for job in jobs(planned(sparse_training=sparse), "rank")] == ["taylor", "snip"]


def test_sparsities_of_a_chunk_share_a_job():
    tuning = {"sparsities": [0.5, 0.6, 0.7, 0.8, 0.9]}
    for chunk, number in ((1, 6), (2, 3), (6, 1)):  # the control is one of them
        assert len(jobs(planned(fine_tuning={**tuning, "chunk": chunk}), "finetune")) == number


def test_a_job_of_several_sparsities_may_take_as_many_times_as_long():
    plan = planned(fine_tuning={"sparsities": [0.5, 0.6, 0.7], "chunk": 2})
    (run,) = plan.runs
    times = [plan.trainings("finetune", SimpleNamespace(run=run, **job.wildcards)) for job in jobs(plan, "finetune")]
    assert times == [2, 2]
    assert plan.trainings("bracket", SimpleNamespace(run=run, method="magnitude")) == 7  # 0.5 / 2^7 < 0.005
    assert plan.trainings("train", SimpleNamespace(run=run)) == 1


def test_iterative_methods_are_one_job_a_level_and_a_new_sparsity_adds_only_its_own():
    one = planned(sparse_training={"methods": ["imp"], "sparsities": [0.5]})
    two = planned(sparse_training={"methods": ["imp"], "sparsities": [0.5, 0.6]})
    assert {rule: counts(one)[rule] for rule in ("snapshot", "level", "measure")} == {
        "snapshot": 1, "level": 4, "measure": 1
    }  # fmt: skip
    names = [{job.name for job in jobs(plan, "level")} for plan in (one, two)]
    assert names[0] < names[1]
    assert len(names[1]) == 6


def test_the_network_is_kept_only_at_epochs_that_something_rewinds_to():
    def epochs(**sections) -> list[str]:
        return [job.wildcards["epoch"] for job in jobs(planned(**sections), "snapshot")]

    assert epochs(sparse_training={"methods": ["snip", "gmp", "rare_gems"]}) == []
    assert epochs(fine_tuning={"rewinding": "learning_rate", "sparsities": [0.6]}) == []
    assert epochs(fine_tuning={"rewinding": "weights", "epochs": 5}, sparse_training={"methods": ["imp"]}) == [
        "1",
        "25",
    ]


def test_the_papers_matrix():
    plan = Plan(config.load_file(ROOT / "config/paper.yaml"))
    assert len(plan.runs) == 8
    per_seed = {rule: number // 8 for rule, number in counts(plan).items()}
    assert per_seed == {
        "train": 1, "predict": 1, "spectrum": 2, "quadratic": 1, "statistical_dimension": 2, "sweep": 3, "finetune": 7,
        "bracket": 1,
    }  # fmt: skip


def test_no_two_jobs_share_a_log_a_benchmark_or_an_output():
    run = finished_run()
    files = []
    for job in run.plan.jobs(run.run.name):
        at = run.at(**job.wildcards)
        files += [run.plan.log(job.rule).format(**vars(at)), run.plan.benchmark(job.rule).format(**vars(at))]
        files += run.outputs(job.rule, at).values()
    assert len(set(files)) == len(files)


def test_every_wildcard_of_every_job_is_allowed_and_nothing_else():
    run = finished_run()
    allowed = run.plan.wildcards()
    for job in run.plan.jobs(run.run.name):
        assert all(value in allowed[name] for name, value in job.wildcards.items())
    assert allowed["seed"] == ["0"]
    assert allowed["epoch"] == ["1"]
    assert planned().wildcards()["node"] == []


def test_file_names_of_methods_with_controls_come_back_as_method_and_control():
    plan = planned(sparse_training={"methods": ["snip"], "controls": ["reinitialise"]})
    tokens = [job.wildcards["method"] for job in jobs(plan, "train_sparse")]
    assert [plan.methods[token] for token in dict.fromkeys(tokens)] == [("snip", ""), ("snip", "reinitialise")]


def test_a_method_of_a_users_own_has_file_names_without_colons_and_dots():
    name = SMALLEST_2
    plan = planned(pruning={"methods": ["magnitude", name]}, fine_tuning={"methods": [name], "sparsities": [0.6]})
    (run,) = plan.runs
    jobs_of = [job for job in jobs(plan) if job.wildcards.get("method", "magnitude") != "magnitude"]
    assert [job.rule for job in jobs_of] == ["sweep", "finetune", "finetune", "bracket"]
    (token,) = {job.wildcards["method"] for job in jobs_of}
    assert not set(token) & set(":./")
    assert plan.methods[token] == (name, "")
    assert token in plan.wildcards()["method"]
    assert settings_of(plan, "sweep", SimpleNamespace(run=run, seed="0", method=token))["method"] == name


# --- rules --------------------------------------------------------------------------------------------------


def rules_of_the_workflow() -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    return {*re.findall(r"^rule (\w+):", text, re.MULTILINE), *WITH_PRODUCTS}


def test_plan_work_and_workflow_know_the_same_rules():
    ends = {"collect", "aggregate", "run_figures", "threshold_figure"}
    assert {*RULES, "prepare_data", *ends} == set(WORK) == rules_of_the_workflow()


def test_every_rule_has_a_section_of_resources_and_computing_ones_a_gpu():
    for rule in WORK:
        assert section_of(rule) in config.Config.model_fields["resources"].annotation.model_fields
    assert set(SECTION_OF_RULE) == {*RULES, "prepare_data"}
    assert {rule for rule in WORK if not needs_gpu(rule)} == {
        "prepare_data", "predict", "collect", "aggregate", "run_figures", "threshold_figure"
    }  # fmt: skip


def test_the_profile_for_a_cluster_has_a_place_for_every_rule():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["set-resources"]
    assert set(profile) == set(WORK)
    assert {rule for rule, asked in profile.items() if asked["slurm_partition"] == "gpu"} == set(
        filter(needs_gpu, WORK)
    )


def test_the_settings_of_every_job_are_those_that_its_work_takes():
    run = finished_run()
    at = [(job.rule, run.at(**job.wildcards)) for job in run.plan.jobs(run.run.name)]
    at += [("prepare_data", SimpleNamespace(dataset=run.run.dataset_key)), ("aggregate", SimpleNamespace())]
    at += [(rule, run.at()) for rule in ("collect", "run_figures", "threshold_figure")]
    at += [(name, run.at(operator="ggn")) for name, predictor in PREDICTORS.items() if not predictor.default]
    assert {rule for rule, _ in at} == set(WORK)
    for rule, wildcards in at:
        _, kind = work_of(rule)
        told = settings_of(run.plan, rule, wildcards)
        assert dataclasses.asdict(kind(**told)).items() >= told.items(), rule


# --- tables -------------------------------------------------------------------------------------------------


def test_every_part_of_a_table_is_the_output_of_a_job():
    run = finished_run()
    made = {
        file for job in run.plan.jobs(run.run.name) for file in run.outputs(job.rule, run.at(**job.wildcards)).values()
    }
    parts = run.plan.parts(run.at())
    assert set(parts) == {"training", "spectra", "width_curves", "predictions", "sweep", "dense"}
    for files in parts.values():
        assert files
        assert set(files) <= made
    one_file = {"train", "spectrum", "rank", "mask", "snapshot", "level", "predict"}
    others = [job for job in run.plan.jobs(run.run.name) if job.rule not in one_file]
    assert len(parts["sweep"]) + len(parts["predictions"]) == len(others) + 1


def test_every_job_of_every_seed_has_its_benchmark():
    plan = planned(seeds=[0, 3])
    (run,) = plan.runs
    benchmarks = plan.benchmarks(run)
    assert len(benchmarks) == 2 * len(plan.jobs(run))
    assert {(item["rule"], item["job"]) for item in benchmarks} >= {
        ("train", ""), ("spectrum", "ggn_probe0"), ("finetune", "magnitude_600000"),
        ("statistical_dimension", "hessian"),
    }  # fmt: skip
    assert {item["seed"] for item in benchmarks} == {0, 3}
    assert "results/benchmarks/spectrum/tiny_l1-1e-3_seed3_ggn_probe0.tsv" in {item["file"] for item in benchmarks}
    (shared,) = plan.shared_benchmarks()
    assert shared == {
        "run": "", "seed": -1, "rule": "prepare_data", "job": "digits",
        "file": "results/benchmarks/prepare_data/digits.tsv",
    }  # fmt: skip


def test_a_finished_workflow_has_every_table_and_figure():
    results = planned().results()
    assert {f"results/tables/{name}.parquet" for name in (*RUN_TABLES, "published")} < set(results)
    assert {f"results/figures/predicted_vs_empirical.{kind}" for kind in ("svg", "png")} < set(results)
    assert sum(name.startswith("results/figures/tiny_l1-1e-3/") for name in results) == 10


# --- what a change reruns -----------------------------------------------------------------------------------


def all_jobs(values: dict, root: Path) -> dict[tuple[str, str, str], tuple[dict, list[str], list[str]]]:
    """(run, rule, job) -> settings, inputs and outputs, of one seed."""
    found = {}
    names = config.expand(config.load(values))
    for name, run in names.items():
        one = SmallRun.__new__(SmallRun)
        one.plan, one.run, one._data = Plan(config.load({**values, "results": str(root)})), run, ""
        one._data = one.plan.data(one.at())
        for job in one.plan.jobs(name):
            at = one.at(**job.wildcards)
            inputs = itertools.chain.from_iterable(
                [value] if isinstance(value, str) else value for value in one.inputs(job.rule, at).values()
            )
            told = settings_of(one.plan, job.rule, at)
            found[name, job.rule, job.name] = told, list(inputs), list(one.outputs(job.rule, at).values())
    return found


def reruns(**changes) -> dict[str, int]:
    """Rule -> number of jobs that are new, or whose settings or inputs changed, themselves or upstream."""
    values = {**VALUES, "sparse_training": {}, "fine_tuning": {"epochs": 1, "sparsities": [0.6]}}
    root = Path("results")
    before, after = all_jobs(values, root), all_jobs({**values, **changes}, root)
    changed = {key for key, job in after.items() if before.get(key) != job}
    while True:
        stale = {file for key in changed for file in after[key][2]}
        more = {key for key, (_, inputs, _) in after.items() if stale & set(inputs)} - changed
        if not more:
            break
        changed |= more
    rules = [rule for _, rule, _ in changed]
    return {rule: rules.count(rule) for rule in rules}


METHODS = VALUES["pruning"]["methods"]
PREDICTING = {"predict": 1, "quadratic": 1, "statistical_dimension": 2}
SPECTRUM = {"spectrum": 4, "predict": 1, "statistical_dimension": 2}


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("fine_tuning", {"epochs": 1, "sparsities": [0.6, 0.8]}, {"finetune": 1, "bracket": 1}),
        ("fine_tuning", {"epochs": 1, "sparsities": [0.6], "resolution": 0.1}, {"bracket": 1}),
        ("pruning", {**VALUES["pruning"], "sparsities": [0.3, 0.6, 0.8]}, {"sweep": 4, "predict": 1}),
        ("pruning", {**VALUES["pruning"], "methods": [*METHODS, "random"]}, {"sweep": 1, **PREDICTING}),
        (
            "pruning",
            {**VALUES["pruning"], "methods": [*METHODS, "obd"]},
            {"rank": 1, "sweep": 1, **PREDICTING},
        ),
        ("pruning", {**VALUES["pruning"], "samples": 7}, {"rank": 1, "sweep": 1, **PREDICTING}),
        ("spectrum", {**VALUES["spectrum"], "steps": 25}, SPECTRUM),
        ("spectrum", {**VALUES["spectrum"], "probes": 3}, {**SPECTRUM, "spectrum": 2}),
        ("spectrum", {**VALUES["spectrum"], "cone_steps": 20}, {"statistical_dimension": 2}),
        ("spectrum", {**VALUES["spectrum"], "statistical_dimension": False}, {}),
        ("spectrum", {**VALUES["spectrum"], "predictors": ["width", "quadratic"]}, {"predict": 1}),
        (
            "epsilon",
            ["batch_std"],
            {"quadratic": 1, "statistical_dimension": 2, "predict": 1, "sweep": 4, "bracket": 1},
        ),
        ("criteria", {"accuracy_drop": [1.0, 2.0]}, {"sweep": 4}),
        ("resources", {"train": {"runtime": 7}}, {}),
        ("data_dir", "elsewhere", {}),
        ("seeds", [0, 1], {}),
    ],
)
def test_a_change_reruns_the_jobs_that_depend_on_it_and_no_other(section, values, expected):
    assert reruns(**{section: values}) == expected


def test_a_new_coefficient_and_a_new_network_rerun_nothing_of_the_others():
    plan = counts(planned())
    assert reruns(training={**VALUES["training"], "l1": [1e-3, 1e-4]})["train"] == 1
    other = {"name": "other", "dataset": "digits", "network": "fc"}
    assert reruns(experiments=[*VALUES["experiments"], other])["train"] == plan["train"]


def test_the_provenance_of_tables_names_all_but_places_and_resources():
    run = SimpleNamespace(run="tiny_l1-1e-3")
    one, two = planned(), planned(results="elsewhere", data_dir="there", resources={"train": {"mem_mb": 1}})
    for at in (run, SimpleNamespace()):
        assert provenance_of(one, at) == provenance_of(two, at)
        assert provenance_of(planned(seeds=[5]), at) != provenance_of(one, at)
