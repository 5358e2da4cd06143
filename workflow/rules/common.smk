# Configuration, names of files and what several rules share. No rule stands here.
import functools
import itertools
import re
from dataclasses import asdict

from gwprune.tables.comparison import in_words
from gwprune.config.runs import sparsity_token
from gwprune.storage.files import config_hash
from gwprune.pruning import METHODS, without_control
from gwprune.tables.published import published_rows
from gwprune.tables.schemas import RUN_TABLES, TABLES

# The message is complete: an exception of Snakemake's would add lines of this file to it.
try:
    CONFIG = gwconfig.load_for_workflow(config, workflow.configfiles)
except gwconfig.ConfigError as error:
    sys.exit(str(error))

RUNS = gwconfig.expand(CONFIG)
RESULTS = CONFIG.results.rstrip("/")
GPU = 0 if CONFIG.device == "cpu" else 1
ENVIRONMENT = "../../envs/gwprune.yaml"
UNIT = f"{RESULTS}/runs/{{run}}/seed{{seed}}"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# Checkpoints of running jobs: Snakemake deletes declared outputs before a retry, these it leaves alone.
CHECKPOINTS = f"{RESULTS}/checkpoints"


def one_of(values):
    return "|".join(re.escape(str(value)) for value in sorted(set(values), key=str))


wildcard_constraints:
    run=one_of(RUNS),
    seed=one_of(CONFIG.seeds),
    dataset=one_of(run.dataset_key for run in RUNS.values()),
    operator="hessian|ggn",
    probe=r"\d+",
    method=r"[a-z_]+",
    chunk=r"\d{6}(-\d{6}-[0-9a-f]{6})?",
    epoch=r"\d+",
    sparsity=r"\d{6}",
    node=r"\d{6}-\d+-[0-9a-f]{6}",


def settings(wildcards):
    return RUNS[wildcards.run]


def epsilon_rules(wildcards):
    return settings(wildcards).experiment.epsilon


def accuracy_drops(wildcards):
    return settings(wildcards).experiment.criteria.accuracy_drop


def data_file(wildcards):
    return f"{RESULTS}/data/{settings(wildcards).dataset_key}.pt"


def threads_of(stage):
    return getattr(CONFIG.resources, stage).threads


def memory_of(stage):
    # More with every retry, so that a job that was too large comes through.
    return lambda wildcards, attempt: getattr(CONFIG.resources, stage).mem_mb * attempt


def runtime_of(stage):
    return lambda wildcards, attempt: getattr(CONFIG.resources, stage).runtime * attempt


def operators(run):
    return RUNS[run].experiment.spectrum.operators


def cones(run):
    """Operators of which predictor `statistical_dimension` is asked for."""
    return operators(run) if RUNS[run].experiment.spectrum.statistical_dimension else []


def probe_files(run, seed, operator):
    probes = range(RUNS[run].experiment.spectrum.probes)
    return [f"{UNIT}/spectrum/{operator}_probe{probe}.npz".format(run=run, seed=seed) for probe in probes]


def finetuned(run):
    """(method, token of its sparsities) of every fine-tuning job of a run."""
    return list(itertools.product(RUNS[run].experiment.fine_tuning.methods, RUNS[run].chunks()))


def chunk_of(wildcards):
    return settings(wildcards).chunks()[wildcards.chunk]


def dataset_of(wildcards):
    return next(run.experiment.dataset.model_dump() for run in RUNS.values() if run.dataset_key == wildcards.dataset)


def spectrum_settings(*keys):
    return lambda wildcards: settings(wildcards).section("spectrum", *keys)


def all_probes(wildcards):
    return [file for operator in operators(wildcards.run) for file in probe_files(*wildcards, operator)]


def ranked_data(wildcards):
    """The data set, for methods that look at it."""
    return {"data": data_file(wildcards)} if METHODS[wildcards.method].needs else {}


def ranking_settings(wildcards):
    experiment, method = settings(wildcards).experiment, METHODS[wildcards.method]
    section = experiment.sparse_training if method.when == "initialisation" else experiment.pruning
    chosen = {"options": section.options.get(method.name, {})}
    return {**chosen, "samples": experiment.pruning.samples} if method.needs else chosen


def ranked_network(wildcards):
    """The network that a method ranks: trained or not."""
    return f"{UNIT}/snapshots/0.pt" if METHODS[wildcards.method].when == "initialisation" else f"{UNIT}/network.pt"


def rewound_network(wildcards):
    """The network that gives fine-tuning its weights, if not the dense one."""
    run = settings(wildcards)
    if run.experiment.fine_tuning.rewinding != "weights":
        return {}
    return {"rewound": f"{UNIT}/snapshots/{run.first_finetuned_epoch}.pt"}


def sparse_chunk(wildcards):
    return settings(wildcards).chunks("sparse_training")[wildcards.chunk]


def sparse_masks(wildcards):
    """The ranking of a method, or its masks or states of each sparsity of a job."""
    name, _ = without_control(wildcards.method)
    if METHODS[name].when == "iterative":
        return states_of(wildcards.run, name, sparse_chunk(wildcards))
    if METHODS[name].depends_on_sparsity:
        return [f"{UNIT}/masks/{name}_{sparsity_token(sparsity)}.pt" for sparsity in sparse_chunk(wildcards)]
    return [f"{UNIT}/ranking/{name}.pt"]


def epochs_of_masks(wildcards):
    """Epochs of dense training behind a mask of the trained network."""
    trained = METHODS[without_control(wildcards.method)[0]].when == "trained"
    return settings(wildcards).experiment.training.epochs if trained else 0


def states_of(run, method, sparsities):
    """The state at the end of an iterative method's chain to each sparsity."""
    return [f"{UNIT}/iterative/{method}/{RUNS[run].chain(method, sparsity)[-1].name}.pt" for sparsity in sparsities]


def final_states(wildcards):
    sparsities = settings(wildcards).experiment.sparse_training.sparsities
    return states_of(wildcards.run, wildcards.method, sparsities)


@functools.cache
def nodes(run, method):
    """Jobs of an iterative method: each asks for its own several times."""
    return RUNS[run].nodes(method)


def node_of(wildcards):
    return nodes(wildcards.run, wildcards.method)[wildcards.node]


def before_level(wildcards):
    """What a level goes on from, and the network that it takes its weights from if it rewinds."""
    node = node_of(wildcards)
    first = f"{UNIT}/network.pt" if node.level.begins_with == "trained" else f"{UNIT}/snapshots/0.pt"
    found = {"before": f"{UNIT}/iterative/{{method}}/{node.before}.pt" if node.before else first}
    if node.level.start == "rewound":
        found["rewound"] = f"{UNIT}/snapshots/{node.level.first_epoch}.pt"
    return found


def epochs_before_chain(wildcards):
    """Epochs that the network at the start of an iterative method was trained for."""
    trained = node_of(wildcards).level.begins_with == "trained"
    return settings(wildcards).experiment.training.epochs if trained else 0


def sparse_jobs(run):
    """(rule, name of the job) of all jobs for sparse training of a run."""
    section, jobs = RUNS[run].experiment.sparse_training, []
    for name in RUNS[run].masked_methods():
        jobs += [("train_sparse", f"{name}_{token}") for token in RUNS[run].chunks("sparse_training")]
    tokens = [sparsity_token(sparsity) for sparsity in section.sparsities]
    for name in section.methods:
        if METHODS[name].depends_on_sparsity:
            jobs += [("mask", f"{name}_{token}") for token in tokens]
        elif METHODS[name].when != "iterative" and name not in RUNS[run].experiment.pruning.methods:
            jobs.append(("rank", name))
    for name in RUNS[run].iterative_methods():
        jobs += [("level", f"{name}_{node}") for node in nodes(run, name)]
        jobs.append(("measure", name))
    return jobs + [("snapshot", str(epoch)) for epoch in snapshots(run)]


def snapshots(run):
    """Epochs of dense training after which the network is needed."""
    experiment, found = RUNS[run].experiment, set()
    if experiment.fine_tuning.rewinding == "weights" and experiment.fine_tuning.methods:
        found.add(RUNS[run].first_finetuned_epoch)
    if experiment.sparse_training.methods:
        found.add(0)
    for name in RUNS[run].iterative_methods():
        levels = [node.level for node in nodes(run, name).values()]
        found |= {level.first_epoch for level in levels if level.start == "rewound"}
    return sorted(found)


PARTS = ("training", "spectra", "width_curves", "predictions", "sweep")


def parts(wildcards):
    """Table -> part files of all seeds of a run, and the dense summaries."""
    run = wildcards.run
    found = {table: [] for table in (*PARTS, "dense")}
    trained = [name for stage, name in sparse_jobs(run) if stage in ("train_sparse", "measure")]
    for unit in (UNIT.format(run=run, seed=seed) for seed in CONFIG.seeds):
        for table in ("training", "spectra", "width_curves"):
            found[table].append(f"{unit}/{table}.parquet")
        found["predictions"].append(f"{unit}/predictions/width.parquet")
        found["predictions"].append(f"{unit}/predictions/quadratic.parquet")
        found["predictions"] += [f"{unit}/predictions/statistical_dimension_{name}.parquet" for name in cones(run)]
        found["sweep"] += [f"{unit}/one_shot/{name}.parquet" for name in RUNS[run].experiment.pruning.methods]
        found["sweep"] += [f"{unit}/fine_tuned/{name}_{token}.parquet" for name, token in finetuned(run)]
        found["sweep"] += [f"{unit}/trained/{name}.parquet" for name in trained]
        found["dense"].append(f"{unit}/dense.json")
    return found


def run_table(name):
    """Table of a single run: the same as under tables/, which joins them."""
    return f"{RESULTS}/runs/{{run}}/tables/{name}.parquet"


def criteria(wildcards):
    """What the criteria of a run need to know, for each seed."""
    return [
        {
            "run": wildcards.run,
            "seed": seed,
            "epsilon_rules": epsilon_rules(wildcards),
            "accuracy_drops": accuracy_drops(wildcards),
        }
        for seed in CONFIG.seeds
    ]


def facts(wildcards):
    """What the comparison says of a run beside its name."""
    run = settings(wildcards)
    network, dataset = run.experiment.network, run.experiment.dataset
    return {
        "network": in_words(network.name, network.options),
        "dataset": in_words(dataset.name, dataset.options),
        "l1": run.l1,
    }


def benchmarks(wildcards):
    """Every benchmark file of a run with the seed, rule and job that it belongs to."""
    run = wildcards.run
    probes = range(RUNS[run].experiment.spectrum.probes)
    methods = RUNS[run].experiment.pruning.methods
    jobs = {
        "train": [""],
        "predict": [""],
        "quadratic": [""],
        "statistical_dimension": cones(run),
        "spectrum": [f"{operator}_probe{probe}" for operator in operators(run) for probe in probes],
        "rank": methods,
        "sweep": methods,
        "finetune": [f"{method}_{token}" for method, token in finetuned(run)],
    }
    for rule, name in sparse_jobs(run):
        jobs[rule] = [*jobs.get(rule, []), name]
    return [
        {
            "run": run,
            "seed": seed,
            "rule": rule,
            "job": job,
            "file": f"{BENCHMARKS}/{rule}/{'_'.join(filter(None, (f'{run}_seed{seed}', job)))}.tsv",
        }
        for seed in CONFIG.seeds
        for rule in jobs
        for job in jobs[rule]
    ]


def shared_benchmarks():
    """The same of jobs that serve several runs."""
    return [
        {"run": "", "seed": -1, "rule": "prepare_data", "job": key, "file": f"{BENCHMARKS}/prepare_data/{key}.tsv"}
        for key in sorted({run.dataset_key for run in RUNS.values()})
    ]


def run_provenance(wildcards):
    """The settings that tables of a run come from."""
    run = settings(wildcards)
    return {"experiment": run.experiment.model_dump(mode="json"), "l1": run.l1, "seeds": CONFIG.seeds}


# Those of the tables of all runs: all but places and resources.
PROVENANCE = CONFIG.model_dump(mode="json", exclude={"resources", "results", "data_dir"})


def final_tables():
    texts = ("thresholds.csv", "comparison.md", "comparison.html")
    return [f"{RESULTS}/tables/{name}" for name in (*(f"{table}.parquet" for table in TABLES), *texts)]


RUN_FIGURES = {
    "training_history": ["training"],
    "spectral_density": ["spectra"],
    "width_curve": ["width_curves", "predictions"],
    "sparsity_sweep": ["sweep", "predictions", "empirical"],
    "tradeoff": ["comparison"],
}


def final_figures():
    return [f"{RESULTS}/figures/predicted_vs_empirical.svg"] + [
        f"{RESULTS}/figures/{run}/{figure}.svg" for run in RUNS for figure in RUN_FIGURES
    ]
