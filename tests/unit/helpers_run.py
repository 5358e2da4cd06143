"""A small run: every kind of job once, on a few digits and a small network, done in this process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from gwprune import config, datasets
from gwprune.config.plan import Plan
from gwprune.config.settings import settings_of
from gwprune.datasets import DeviceSplit
from gwprune.jobs.artifacts import load_network
from gwprune.jobs.job import Job
from gwprune.jobs.rules import work_of
from gwprune.network.prunable import PrunableSet
from gwprune.tables.files import read_table
from gwprune.tables.schemas import RUN_TABLES, TABLES

DIMENSION = 64 * 12 + 12 * 10
SPLITS = ("train", "val", "test")

SMALLEST_2 = "tests.unit.helpers_methods:smallest_2"

VALUES = {
    "experiments": [
        {
            "name": "small",
            "dataset": {"name": "digits", "options": {"train_limit": 200}},
            "network": {"name": "fc", "options": {"hidden": [12], "batch_norm": True}},
        }
    ],
    "seeds": [0],
    "device": "cpu",
    "training": {"epochs": 4, "batch_size": 16, "lr": 0.2, "l1": 1e-3},
    "spectrum": {"steps": 6, "probes": 2, "samples": 100},
    "epsilon": ["batch_std", "relative: 0.1"],
    "pruning": {
        "methods": ["magnitude", "lamp", "taylor", SMALLEST_2],
        "sparsities": [0.07, 0.5, 0.9],
        "resolution": 0.02,
    },
    "fine_tuning": {
        "methods": ["magnitude", "lamp"],
        "epochs": 1,
        "lr": 0.05,
        "batch_size": 16,
        "sparsities": [0.5, 0.9],
        "resolution": 0.1,
    },
    "sparse_training": {
        "methods": ["snip", "synflow", "imp", "gmp", "rare_gems", "lamp"],
        "sparsities": [0.5, 0.7],
        "chunk": 2,
        "controls": ["reinitialise", "layerwise_shuffle"],
        "options": {
            "imp": {"rate": 0.5},
            "gmp": {"levels": 2, "end": 0.7},
            "rare_gems": {"search_epochs": 3, "levels": 2},
        },
    },
    "criteria": {"accuracy_drop": [1.0, 5.0]},
}

# As Snakemake would do them.
_ORDER = (
    "train", "snapshot", "spectrum", "rank", "quadratic", "statistical_dimension", "predict", "mask", "sweep",
    "finetune", "bracket", "level", "measure", "train_sparse",
)  # fmt: skip


class SmallRun:
    """One run and seed below a directory.

    Args:
        root: the directory of results.
        data: of another run, whose data set is this one's.
        **sections: of the configuration, in place of those of ``VALUES``.
    """

    def __init__(self, root: Path, data: SmallRun | None = None, **sections: Any):
        self.root = root
        self.plan = Plan(config.load({**VALUES, **sections, "results": str(root)}))
        (self.run,) = self.plan.runs.values()
        self.experiment = self.run.experiment
        self.key = {"run": self.run.name, "seed": 0}
        self.job = Job(**self.key, device="cpu", configuration={"epochs": 4})
        self._data = data.data if data else self.plan.data(self.at())
        self._works: dict[str, Callable] = {}

    @property
    def data(self) -> str:
        return self._data

    def at(self, **wildcards: Any) -> SimpleNamespace:
        return SimpleNamespace(run=self.run.name, seed="0", **wildcards)

    def file(self, name: str, **wildcards: Any) -> str:
        """A file of the plan; a table of this run by its name."""
        if name in RUN_TABLES and name not in ("training", "spectra", "width_curves", "predictions"):
            return self.plan.run_table(name).format(run=self.run.name)
        return self.plan.file(name).format(run=self.run.name, seed=0, **wildcards)

    def inputs(self, rule: str, at: SimpleNamespace) -> dict[str, Any]:
        """Named inputs of a job, as the rules have them."""
        plan = self.plan
        data = {"data": self.data}
        network = {"network": self.file("network")}
        dense = {"dense": self.file("dense")}
        tables = {name: plan.run_table(name).format(run=self.run.name) for name in RUN_TABLES}
        return {
            "prepare_data": lambda: {},
            "train": lambda: plan.weights(at) | data,
            "snapshot": lambda: data,
            "spectrum": lambda: data | network,
            "predict": lambda: plan.probes(at) | plan.rankings(rule)(at) | network | dense,
            **dict.fromkeys(
                ("quadratic", "surgeon", "surgeon_step"), lambda: plan.rankings(rule)(at) | data | network | dense
            ),
            "statistical_dimension": lambda: plan.probes(at) | plan.rankings(rule)(at) | data | network | dense,
            "rank": lambda: plan.ranked(at) | data,
            "mask": lambda: plan.ranked(at) | data,
            "sweep": lambda: plan.ranking(at) | data | network | dense,
            "finetune": lambda: plan.ranking(at) | plan.rewound(at) | data | network,
            "bracket": lambda: plan.ranking(at) | plan.rewound(at) | plan.finetuned(at) | data | network | dense,
            "train_sparse": lambda: plan.masks(at) | data,
            "level": lambda: plan.before(at) | data,
            "measure": lambda: {"states": plan.states(at)} | data,
            "collect": lambda: plan.parts(at),
            "aggregate": lambda: {name: [file] for name, file in tables.items()},
            "run_figures": lambda: tables,
            "threshold_figure": lambda: {"thresholds": plan.table("thresholds")},
        }[rule]()

    def outputs(self, rule: str, at: SimpleNamespace) -> dict[str, str]:
        """Named outputs of a job, as the rules have them."""
        plan, wildcards = self.plan, {key: value for key, value in vars(at).items() if key not in ("run", "seed")}
        pages = {
            "csv": "thresholds.csv", "markdown": "comparison.md", "html": "comparison.html", "readme": "README.md"
        }  # fmt: skip
        names = {
            "train": {"network": "network", "history": "training", "dense": "dense"},
            "snapshot": {"network": "snapshot"},
            "spectrum": {"probe": "probe"},
            "predict": {name: name for name in ("spectra", "width_curves", "predictions")},
            "quadratic": {"predictions": "quadratic"},
            "statistical_dimension": {"predictions": "statistical_dimension"},
            "rank": {"ranking": "ranking"},
            "mask": {"mask": "mask"},
            "sweep": {"sweep": "one_shot"},
            "finetune": {"sweep": "fine_tuned"},
            "bracket": {"sweep": "bracketed"},
            "train_sparse": {"sweep": "trained"},
            "level": {"state": "state"},
            "measure": {"sweep": "measured"},
        }
        if rule == "prepare_data":
            return {"data": self.data}
        if rule == "collect":
            return {name: plan.run_table(name).format(run=self.run.name) for name in RUN_TABLES}
        if rule == "aggregate":
            tables = {name: plan.table(name) for name in TABLES}
            return tables | {name: plan.path(f"tables/{file}") for name, file in pages.items()}
        return {name: self.file(file, **wildcards) for name, file in names.get(rule, {}).items()}

    def do(
        self,
        rule: str,
        job: Job | None = None,
        *,
        inputs: dict[str, Any] = {},  # noqa: B006 - read alone
        outputs: dict[str, Any] = {},  # noqa: B006
        settings: dict[str, Any] = {},  # noqa: B006
        **wildcards: Any,
    ) -> None:
        """Do one job, with other inputs, outputs and settings where they are given.

        Its checkpoint is then where its outputs are.
        """
        at = self.at(**wildcards)
        work, kind = work_of(rule)
        to = {**self.outputs(rule, at), **outputs}
        for path in to.values():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        told = {**settings_of(self.plan, rule, at), **settings}
        if outputs and told.get("checkpoint"):
            told["checkpoint"] = str(Path(next(iter(outputs.values()))).parent / Path(told["checkpoint"]).name)
        work(job or self.job, {**self.inputs(rule, at), **inputs}, to, kind(**told))

    def finish(self) -> None:
        """Do all jobs."""
        self.do("prepare_data", dataset=self.run.dataset_key)
        for job in sorted(self.plan.jobs(self.run.name), key=lambda job: _ORDER.index(job.rule)):
            self.do(job.rule, **job.wildcards)
        for rule in ("train", "predict"):
            path = Path(self.plan.benchmark(rule).format(**self.key))
            path.parent.mkdir(parents=True, exist_ok=True)
            times = {"train": "1.5\t0:00:01\t250.25\t1.25", "predict": "0.0101\t0:00:00\t-\tNA"}
            path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{times[rule]}\n")
        self.do("collect")
        self.do("aggregate")

    # --- a look at what there is ---------------------------------------------------------------------------------

    def rows(self, table: str, **values: Any) -> list[dict[str, Any]]:
        """Rows of a table whose columns have the given values."""
        rows = read_table(table, self.plan.table(table)).to_pylist()
        return [row for row in rows if all(row[key] == value for key, value in values.items())]

    def network(self, name: str = "network", **wildcards: Any) -> torch.nn.Module:
        return load_network(self.file(name, **wildcards))

    def flat(self, name: str = "network", **wildcards: Any) -> torch.Tensor:
        """Prunable weights (D,) of a network file."""
        return PrunableSet(self.network(name, **wildcards)).flatten()

    def splits(self) -> dict[str, DeviceSplit]:
        images = datasets.load(self.data)
        return {name: DeviceSplit.from_data(images, name) for name in SPLITS}

    def unfinished(self) -> list[Path]:
        """Checkpoints, and files that were not completed."""
        return [*self.root.glob("checkpoints/*"), *self.root.glob("**/.*.part")]


@functools.cache
def finished_run() -> SmallRun:
    """The whole run, done once for all tests of a process. Tests read its files and write elsewhere."""
    root = Path(tempfile.mkdtemp(prefix="gwprune-small-run-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    run = SmallRun(root)
    run.finish()
    return run


def copied_run(directory: Path) -> SmallRun:
    """A copy of the finished run, whose files a test may change."""
    shutil.copytree(finished_run().root, directory / "results")
    return SmallRun(directory / "results")


def state_of(path: str) -> dict[str, bytes]:
    """Name -> bytes of every tensor of a network file."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_network(path).state_dict().items()}
