"""Files that belong to another seed, copied into this one's folder: every job refuses them by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwprune.jobs.artifacts import ArtifactError

from .helpers_run import SmallRun, copied_run, finished_run
from .helpers_training import give_to_seed_1

CHUNK = {"chunk": "500000-700000-192b51"}


def wildcards(run: SmallRun, rule: str, **of: str) -> dict[str, str]:
    """Those of the first job of a rule that has these."""
    jobs = (job.wildcards for job in run.plan.jobs(run.run.name) if job.rule == rule)
    return next((own for own in jobs if own.items() >= of.items()), {})


# Rule, the wildcards of its job, its input that is copied.
READERS = [
    ("spectrum", {"operator": "ggn"}, "network"),
    ("predict", {}, "network"),
    ("predict", {}, "dense"),
    ("predict", {}, "ggn"),
    ("predict", {}, "rankings"),
    ("quadratic", {}, "network"),
    ("quadratic", {}, "dense"),
    ("quadratic", {}, "rankings"),
    ("statistical_dimension", {"operator": "ggn"}, "network"),
    ("statistical_dimension", {"operator": "ggn"}, "dense"),
    ("statistical_dimension", {"operator": "ggn"}, "ggn"),
    ("statistical_dimension", {"operator": "ggn"}, "rankings"),
    ("rank", {"method": "taylor"}, "network"),
    ("sweep", {"method": "magnitude"}, "network"),
    ("sweep", {"method": "magnitude"}, "dense"),
    ("sweep", {"method": "taylor"}, "ranking"),
    ("finetune", {}, "network"),
    ("bracket", {}, "network"),
    ("bracket", {}, "dense"),
    ("bracket", {}, "grid"),
    ("bracket", {"method": "lamp"}, "control"),
    ("train_sparse", {"method": "snip"}, "ranking"),
    ("train_sparse", {"method": "synflow"}, "masks"),
    ("train_sparse", {"method": "lamp"}, "network"),
    ("train_sparse", {"method": "imp_reinitialise"}, "states"),
    ("level", {"method": "imp"}, "before"),
    ("level", {"method": "imp"}, "rewound"),
    ("measure", {"method": "imp"}, "states"),
    ("collect", {}, "dense"),
    ("collect", {}, "sweep"),
]


@pytest.mark.parametrize(("rule", "of", "name"), READERS, ids=[f"{rule}-{name}" for rule, _, name in READERS])
def test_a_file_of_another_seed_is_refused_and_named(tmp_path, rule, of, name):
    run = copied_run(tmp_path)
    at = wildcards(run, rule, **of)
    given = run.inputs(rule, run.at(**at))[name]
    path = Path(given if isinstance(given, str) else given[0])
    give_to_seed_1(path)
    outputs = {} if rule == "collect" else run.outputs(rule, run.at(**at))
    elsewhere = {output: str(tmp_path / output) for output in outputs}
    with pytest.raises(ArtifactError, match=rf"seed0/.*{path.name} belongs to .*seed 1.*; expected .*seed 0"):
        run.do(rule, outputs=elsewhere, **at)
    assert not any(Path(file).exists() for file in elsewhere.values())


def test_every_input_between_jobs_has_its_reader_here():
    run = finished_run()
    named = {
        (job.rule, name)
        for job in run.plan.jobs(run.run.name)
        for name in run.inputs(job.rule, run.at(**job.wildcards))
    }
    alike = {"hessian": "ggn"}
    named = {(rule, alike.get(name, name)) for rule, name in named if name != "data"}
    assert named - {("mask", "network"), ("finetune", "ranking")} <= {(rule, name) for rule, _, name in READERS}
