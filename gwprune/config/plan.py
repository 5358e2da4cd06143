"""What a workflow consists of: its rules, the jobs of each run, and the files that go from job to job.

The Snakefile's rules ask here, and nothing here knows Snakemake. A file name is a pattern with wildcards in braces, as
Snakemake has it. ``at`` is the wildcards of one job, with their names as attributes. What each job is told beside its
files stands in `settings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..pruning import CONTROLS, method_of, method_token
from ..spectral.predictors import PREDICTORS
from ..tables.schemas import TABLES
from .models import Config
from .runs import Node, Run, expand, sparsity_token

__all__ = [
    "RULES",
    "RUN_FIGURES",
    "SECTION_OF_RULE",
    "WITH_PRODUCTS",
    "Plan",
    "PlannedJob",
    "Rule",
    "needs_gpu",
    "section_of",
]

_UNIT = "runs/{run}/seed{seed}"

# Below the directory of results.
_FILES = {
    "data": "data/{dataset}.pt",
    "network": f"{_UNIT}/network.pt",
    "training": f"{_UNIT}/training.parquet",
    "dense": f"{_UNIT}/dense.json",
    "snapshot": f"{_UNIT}/snapshots/{{epoch}}.pt",
    "probe": f"{_UNIT}/spectrum/{{operator}}_probe{{probe}}.npz",
    "spectra": f"{_UNIT}/spectra.parquet",
    "width_curves": f"{_UNIT}/width_curves.parquet",
    "predictions": f"{_UNIT}/predictions/width.parquet",
    "ranking": f"{_UNIT}/ranking/{{method}}.pt",
    "mask": f"{_UNIT}/masks/{{method}}_{{sparsity}}.pt",
    "one_shot": f"{_UNIT}/one_shot/{{method}}.parquet",
    "fine_tuned": f"{_UNIT}/fine_tuned/{{method}}_{{chunk}}.parquet",
    "bracketed": f"{_UNIT}/fine_tuned/{{method}}.parquet",
    "points": f"{_UNIT}/fine_tuned/{{method}}_points.json",
    "trained": f"{_UNIT}/trained/{{method}}_{{chunk}}.parquet",
    "state": f"{_UNIT}/iterative/{{method}}/{{node}}.pt",
    "measured": f"{_UNIT}/trained/{{method}}.parquet",
}

# Figure -> the tables of a run that it is drawn from.
RUN_FIGURES = {
    "training_history": ["training"],
    "spectral_density": ["spectra"],
    "width_curve": ["width_curves", "predictions"],
    "sparsity_sweep": ["sweep", "predictions", "empirical"],
    "tradeoff": ["comparison"],
}


@dataclass(frozen=True)
class Rule:
    """A rule as the plan knows it.

    Attributes:
        section: of `resources` in the configuration.
        job: name of one of its jobs in logs, benchmarks and table `costs`: a pattern of the wildcards beside run and
            seed.
        gpu: whether its jobs compute on a network, on a GPU where there is one.
        parts: table -> name of the file with the rows that a job adds to it.
    """

    section: str
    job: str = ""
    gpu: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)


# Predictors that need products with the operator: each has a rule of that name.
WITH_PRODUCTS = [name for name, predictor in PREDICTORS.items() if not predictor.from_spectrum]

# Rules whose jobs belong to one seed of one run, in the order in which table `costs` is shown.
RULES: dict[str, Rule] = {
    "train": Rule("train", parts={"training": "training", "dense": "dense"}),
    "spectrum": Rule("spectrum", "{operator}_probe{probe}"),
    **{
        name: Rule("spectrum", "{operator}" if PREDICTORS[name].apart else "", parts={"predictions": name})
        for name in WITH_PRODUCTS
    },
    "rank": Rule("sweep", "{method}"),
    "sweep": Rule("sweep", "{method}", parts={"sweep": "one_shot"}),
    "finetune": Rule("finetune", "{method}_{chunk}", parts={"sweep": "fine_tuned"}),
    "bracket": Rule("finetune", "{method}", parts={"sweep": "bracketed"}),
    "snapshot": Rule("train", "{epoch}"),
    "mask": Rule("sweep", "{method}_{sparsity}"),
    "train_sparse": Rule("sparse_training", "{method}_{chunk}", parts={"sweep": "trained"}),
    "level": Rule("sparse_training", "{method}_{node}"),
    "measure": Rule("sweep", "{method}", parts={"sweep": "measured"}),
    "predict": Rule(
        "tables",
        gpu=False,
        parts={"spectra": "spectra", "width_curves": "width_curves", "predictions": "predictions"},
    ),
}

_WILDCARDS = ("run", "seed", "dataset", "operator", "probe", "method", "chunk", "epoch", "sparsity", "node")

# Rule -> section of `resources`, of all rules in table `costs`.
SECTION_OF_RULE = {"prepare_data": "prepare", **{name: rule.section for name, rule in RULES.items()}}


def section_of(rule: str) -> str:
    """Section of `resources` that says what the jobs of any rule ask for."""
    return SECTION_OF_RULE.get(rule, "tables")


def needs_gpu(rule: str) -> bool:
    """Whether the jobs of any rule compute on a network."""
    return rule in RULES and RULES[rule].gpu


@dataclass(frozen=True)
class PlannedJob:
    """A job of one seed of a run.

    Attributes:
        rule: name of its rule.
        wildcards: those beside run and seed, as they stand in file names.
    """

    rule: str
    wildcards: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells it from the other jobs of its rule; empty where there is one."""
        return RULES[self.rule].job.format(**self.wildcards)


def _method_wildcard(name: str, control: str = "") -> str:
    return "_".join(filter(None, (method_token(name), control)))


class Plan:
    """All that a configuration asks for.

    Attributes:
        config: the configuration.
        runs: name -> run.
        placed: where a file lies that no rule declares: a workflow that uses this one as a module with a prefix moves
            inputs, outputs and logs by itself.
    """

    def __init__(self, config: Config, placed: Callable[[str], str] = str):
        self.config = config
        self.runs = expand(config)
        self.placed = placed
        self._results = config.results
        self._nodes: dict[tuple[str, str], dict[str, Node]] = {}

    # --- names of files -------------------------------------------------------------------------------------

    def path(self, place: str) -> str:
        """A place below the directory of results."""
        return os.path.normpath(os.path.join(self._results, place))

    def file(self, name: str) -> str:
        """Pattern of a file; a predictor's name stands for its predictions."""
        if name in _FILES:
            return self.path(_FILES[name])
        end = "_{operator}" if PREDICTORS[name].apart else ""
        return self.path(f"{_UNIT}/predictions/{name}{end}.parquet")

    def run_table(self, name: str) -> str:
        """A table of a single run: the same as :meth:`table`, which joins them."""
        return self.path(f"runs/{{run}}/tables/{name}.parquet")

    def table(self, name: str) -> str:
        """A table of all runs."""
        return self.path(f"tables/{name}.parquet")

    def results(self) -> list[str]:
        """All that a finished workflow has: tables and figures."""
        pages = ("README.md", "thresholds.csv", "comparison.md", "comparison.html")
        tables = [*map(self.table, TABLES), *(self.path(f"tables/{name}") for name in pages)]
        figures = ["predicted_vs_empirical", *(f"{run}/{name}" for run in self.runs for name in RUN_FIGURES)]
        pictures = [self.path(f"figures/{name}.{kind}") for name in figures for kind in ("svg", "png")]
        return [*tables, *pictures]

    def _job_file(self, kind: str, rule: str, suffix: str) -> str:
        name = "_".join(filter(None, ("{run}_seed{seed}", RULES[rule].job)))
        return self.path(f"{kind}/{rule}/{name}{suffix}")

    def log(self, rule: str) -> str:
        """Pattern of the logs of a rule."""
        return self._job_file("logs", rule, ".log")

    def benchmark(self, rule: str) -> str:
        """Pattern of the benchmark files of a rule."""
        return self._job_file("benchmarks", rule, ".tsv")

    def checkpoint(self, at: Any, name: str) -> str:
        """A job's checkpoint: Snakemake deletes declared outputs before a retry, these it leaves alone."""
        return self.placed(self.path(f"checkpoints/{at.run}_seed{at.seed}_{name}"))

    def _file_at(self, at: Any, name: str, **wildcards: Any) -> str:
        """A file of the same run and seed."""
        return self.file(name).format(run=at.run, seed=at.seed, **wildcards)

    # --- what wildcards stand for ---------------------------------------------------------------------------

    @cached_property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """Key of a prepared data set -> its name and options."""
        return {run.dataset_key: run.experiment.dataset.model_dump() for run in self.runs.values()}

    @cached_property
    def methods(self) -> dict[str, tuple[str, str]]:
        """Token of a method in file names, with or without a control behind it -> (method, control or "")."""
        experiments = [run.experiment for run in self.runs.values()]
        names = [name for item in experiments for name in (*item.pruning.methods, *item.sparse_training.methods)]
        return {_method_wildcard(name, control): (name, control) for name in names for control in ("", *CONTROLS)}

    def nodes(self, run: str, method: str) -> dict[str, Node]:
        """Jobs of an iterative method of a run, by name."""
        if (run, method) not in self._nodes:
            self._nodes[run, method] = self.runs[run].nodes(method)
        return self._nodes[run, method]

    def node(self, at: Any) -> Node:
        """The job of an iterative method that wildcard ``node`` names."""
        return self.nodes(at.run, self.methods[at.method][0])[at.node]

    def sparsities(self, rule: str, at: Any) -> list[float]:
        """Sparsities of a job of rules `finetune` and `train_sparse`."""
        run, (method, _) = self.runs[at.run], self.methods[at.method]
        return (run.finetune_chunks(method) if rule == "finetune" else run.sparse_chunks())[at.chunk]

    def trainings(self, rule: str, at: Any) -> int:
        """How many trainings a job does one after the other, at most: its run time limit grows with them."""
        if rule == "bracket":
            return self.runs[at.run].most_searched()
        return len(self.sparsities(rule, at)) if rule in ("finetune", "train_sparse") else 1

    def wildcards(self) -> dict[str, list[str]]:
        """Name of each wildcard -> what it stands for in any job."""
        values: dict[str, dict[str, None]] = {name: {} for name in _WILDCARDS}
        values["run"] = dict.fromkeys(self.runs)
        values["dataset"] = dict.fromkeys(self.datasets)
        for name, run in self.runs.items():
            values["seed"] |= dict.fromkeys(map(str, run.experiment.seeds))
            for job in self.jobs(name):
                for wildcard, value in job.wildcards.items():
                    values[wildcard][value] = None
        return {name: list(own) for name, own in values.items()}

    # --- jobs -----------------------------------------------------------------------------------------------

    def jobs(self, run: str) -> list[PlannedJob]:
        """The jobs of each seed of a run, but for those of no seed: its tables and its figures."""
        experiment = self.runs[run].experiment
        spectrum, methods = experiment.spectrum, experiment.pruning.methods
        jobs = [PlannedJob("train"), PlannedJob("predict")]
        jobs += [
            PlannedJob("spectrum", {"operator": operator, "probe": str(probe)})
            for operator in spectrum.operators
            for probe in range(spectrum.probes)
        ]
        for name in self.predictors(run):
            predictor = PREDICTORS[name]
            fitting = [operator for operator in spectrum.operators if operator in predictor.operators]
            apart = [{"operator": operator} for operator in fitting] if predictor.apart else [{}]
            jobs += [PlannedJob(name, wildcards) for wildcards in apart]
        tokens = {name: method_token(name) for name in methods}
        jobs += [PlannedJob("rank", {"method": tokens[name]}) for name in methods if method_of(name).needs]
        jobs += [PlannedJob("sweep", {"method": tokens[name]}) for name in methods]
        jobs += [
            PlannedJob("finetune", {"method": tokens[name], "chunk": chunk})
            for name in experiment.fine_tuning.methods
            for chunk in self.runs[run].finetune_chunks(name)
        ]
        jobs += [PlannedJob("bracket", {"method": tokens[name]}) for name in experiment.fine_tuning.methods]
        return jobs + self._sparse_jobs(self.runs[run])

    def _sparse_jobs(self, run: Run) -> list[PlannedJob]:
        section = run.experiment.sparse_training
        jobs = [PlannedJob("snapshot", {"epoch": str(epoch)}) for epoch in run.snapshots()]
        for name in section.methods:
            method, own = method_of(name), {"method": method_token(name)}
            if method.when == "iterative":
                jobs += [PlannedJob("level", {**own, "node": node}) for node in self.nodes(run.name, name)]
                jobs.append(PlannedJob("measure", own))
            elif method.depends_on_sparsity:
                jobs += [PlannedJob("mask", {**own, "sparsity": sparsity_token(s)}) for s in section.sparsities]
            elif method.needs and name not in run.experiment.pruning.methods:
                jobs.append(PlannedJob("rank", own))
        jobs += [
            PlannedJob("train_sparse", {"method": _method_wildcard(*item), "chunk": chunk})
            for item in run.masked_methods()
            for chunk in run.sparse_chunks()
        ]
        return jobs

    def predictors(self, run: str) -> list[str]:
        """Predictors of a run that have rules of their own."""
        return [name for name in self.runs[run].experiment.spectrum.predictors if name in WITH_PRODUCTS]

    # --- inputs ---------------------------------------------------------------------------------------------

    def data(self, at: Any) -> str:
        """The prepared data set of a run."""
        return self.file("data").format(dataset=self.runs[at.run].dataset_key)

    def weights(self, at: Any) -> dict[str, str]:
        """The file of a network that is given trained."""
        path = self.runs[at.run].experiment.network.weights
        if path is None:
            return {}
        # A workflow that uses this one as a module would move a relative path.
        return {"weights": path if self.placed(path) == path else os.path.abspath(path)}

    def operators(self, at: Any) -> list[str]:
        """Curvature operators of a job: the one that its wildcard names, or all of the run."""
        return [at.operator] if hasattr(at, "operator") else list(self.runs[at.run].experiment.spectrum.operators)

    def probes(self, at: Any) -> dict[str, list[str]]:
        """Operator -> its Lanczos coefficients, a file a probe."""
        numbers = range(self.runs[at.run].experiment.spectrum.probes)
        return {
            name: [self._file_at(at, "probe", operator=name, probe=number) for number in numbers]
            for name in self.operators(at)
        }

    def known_spectrum(self, predictor: str) -> Callable[[Any], dict[str, list[str]]]:
        """:meth:`probes` for a predictor that needs the spectrum, nothing for another one."""
        return self.probes if "spectrum" in PREDICTORS[predictor].needs else lambda at: {}

    def ranked(self, at: Any) -> dict[str, str]:
        """What rules `rank` and `mask` rank: the trained network, or nothing: the untrained one needs no file."""
        name, _ = self.methods[at.method]
        return {} if method_of(name).when == "initialisation" else {"network": self._file_at(at, "network")}

    def ranking(self, at: Any) -> dict[str, str]:
        """The ranking of a method that needs data; what looks at the weights alone is ranked where it is used."""
        name, _ = self.methods[at.method]
        return {"ranking": self._file_at(at, "ranking", method=at.method)} if method_of(name).needs else {}

    def predicted_methods(self, rule: str, at: Any) -> list[str]:
        """The one-shot methods that a rule predicts for."""
        experiment = self.runs[at.run].experiment
        if rule in PREDICTORS and PREDICTORS[rule].costly:
            return experiment.fine_tuning.methods or experiment.pruning.methods[:1]
        return experiment.pruning.methods

    def rankings(self, rule: str) -> Callable[[Any], dict[str, list[str]]]:
        """:meth:`ranking` of all methods that a rule predicts for and that need data, in their order."""

        def files(at: Any) -> dict[str, list[str]]:
            names = [name for name in self.predicted_methods(rule, at) if method_of(name).needs]
            ranked = [self._file_at(at, "ranking", method=method_token(name)) for name in names]
            return {"rankings": ranked} if ranked else {}

        return files

    def rewound(self, at: Any) -> dict[str, str]:
        """The network that gives fine-tuning its weights, if not the dense one."""
        run = self.runs[at.run]
        if run.experiment.fine_tuning.rewinding != "weights":
            return {}
        return {"rewound": self._file_at(at, "snapshot", epoch=run.first_finetuned_epoch)}

    def finetuned(self, at: Any) -> dict[str, Any]:
        """What rule `bracket` starts from: "grid", the asked sparsities of its method, and "control"."""
        run, first = self.runs[at.run], self.runs[at.run].experiment.fine_tuning.methods[0]

        def files(method: str) -> list[str]:
            token = method_token(method)
            return [self._file_at(at, "fine_tuned", method=token, chunk=own) for own in run.finetune_chunks(method)]

        return {"grid": files(self.methods[at.method][0]), "control": files(first)[0]}

    def masks(self, at: Any) -> dict[str, Any]:
        """What rule `train_sparse` takes its masks from.

        Returns:
            "states" or "masks", a file for each sparsity of the job; or "ranking"; or "network", the trained network,
            for a method that ranks that one and is ranked in the job; or nothing, where the untrained one is.
        """
        name, _ = self.methods[at.method]
        method, sparsities = method_of(name), self.sparsities("train_sparse", at)
        token = method_token(name)
        if method.when == "iterative":
            return {"states": self._ends(at, token, sparsities)}
        if method.depends_on_sparsity:
            tokens = map(sparsity_token, sparsities)
            return {"masks": [self._file_at(at, "mask", method=token, sparsity=own) for own in tokens]}
        if method.needs:
            return {"ranking": self._file_at(at, "ranking", method=token)}
        return {"network": self._file_at(at, "network")} if method.when == "trained" else {}

    def before(self, at: Any) -> dict[str, str]:
        """What a level goes on from, if not the untrained network; and the network whose weights it rewinds to."""
        node, files = self.node(at), {}
        if node.before:
            files["before"] = self._file_at(at, "state", method=at.method, node=node.before)
        elif node.level.begins_with == "trained":
            files["before"] = self._file_at(at, "network")
        if node.level.start == "rewound":
            files["rewound"] = self._file_at(at, "snapshot", epoch=node.level.first_epoch)
        return files

    def states(self, at: Any) -> list[str]:
        """The network at the end of an iterative method's chain to each sparsity."""
        return self._ends(at, at.method, self.runs[at.run].experiment.sparse_training.sparsities)

    def _ends(self, at: Any, token: str, sparsities: list[float]) -> list[str]:
        name, _ = self.methods[token]
        ends = [self.runs[at.run].chain(name, sparsity)[-1].name for sparsity in sparsities]
        return [self._file_at(at, "state", method=token, node=node) for node in ends]

    # --- tables ---------------------------------------------------------------------------------------------

    def parts(self, at: Any) -> dict[str, list[str]]:
        """Table -> files of all seeds of a run that hold rows of it; "dense": the summaries of its dense networks."""
        parts: dict[str, list[str]] = {}
        for seed in self.runs[at.run].experiment.seeds:
            for job in self.jobs(at.run):
                for table, name in RULES[job.rule].parts.items():
                    file = self.file(name).format(run=at.run, seed=seed, **job.wildcards)
                    parts.setdefault(table, []).append(file)
        return parts

    def benchmarks(self, run: str) -> list[dict[str, Any]]:
        """Every benchmark file of a run: run, seed, rule and job of table `costs`, and file."""
        benchmarks = []
        for seed in self.runs[run].experiment.seeds:
            for job in self.jobs(run):
                file = self.placed(self.benchmark(job.rule).format(run=run, seed=seed, **job.wildcards))
                benchmarks.append({"run": run, "seed": seed, "rule": job.rule, "job": job.name, "file": file})
        return benchmarks

    def shared_benchmarks(self) -> list[dict[str, Any]]:
        """The same of the jobs that serve several runs."""
        shared = {"run": "", "seed": -1, "rule": "prepare_data"}
        files = {key: self.placed(self.path(f"benchmarks/prepare_data/{key}.tsv")) for key in sorted(self.datasets)}
        return [{**shared, "job": key, "file": file} for key, file in files.items()]
