# Configuration, names of files and what several rules share. No rule stands here.
import itertools
import re

from gwprune import config as gwconfig
from gwprune.config.runs import sparsity_token
from gwprune.tables import TABLES
from snakemake.exceptions import WorkflowError

try:
    CONFIG = gwconfig.load(config)
except gwconfig.ConfigError as error:
    raise WorkflowError(str(error)) from None

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
    sparsity=r"\d{6}",
    figure=r"[a-z_]+",


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
    """(method, sparsity token) of every fine-tuning job of a run."""
    section = RUNS[run].experiment.fine_tuning
    return list(itertools.product(section.methods, map(sparsity_token, section.sparsities)))


def units():
    """(run, seed, directory) of everything that is trained."""
    return [(run, seed, UNIT.format(run=run, seed=seed)) for run in RUNS for seed in CONFIG.seeds]


def dataset_of(wildcards):
    return next(run.experiment.dataset.model_dump() for run in RUNS.values() if run.dataset_key == wildcards.dataset)


def spectrum_settings(*keys):
    return lambda wildcards: settings(wildcards).section("spectrum", *keys)


def all_probes(wildcards):
    return [file for operator in operators(wildcards.run) for file in probe_files(*wildcards, operator)]


def parts():
    """Table -> part files of all runs and seeds."""
    found = {"training": [], "spectra": [], "width_curves": [], "predictions": [], "sweep": []}
    for run, _, unit in units():
        for table in ("training", "spectra", "width_curves"):
            found[table].append(f"{unit}/{table}.parquet")
        found["predictions"].append(f"{unit}/predictions/width.parquet")
        found["predictions"] += [f"{unit}/predictions/quadratic_{name}.parquet" for name in operators(run)]
        found["predictions"] += [f"{unit}/predictions/statistical_dimension_{name}.parquet" for name in cones(run)]
        found["sweep"] += [f"{unit}/one_shot/{name}.parquet" for name in RUNS[run].experiment.pruning.methods]
        found["sweep"] += [f"{unit}/fine_tuned/{name}_{token}.parquet" for name, token in finetuned(run)]
    return found


def benchmarks():
    """Every benchmark file with the run, seed, rule and job that it belongs to."""
    found = [
        {"run": "", "seed": -1, "rule": "prepare_data", "job": key}
        for key in sorted({run.dataset_key for run in RUNS.values()})
    ]
    for run, seed, _ in units():
        jobs = {"train": [""], "predict": [""], "quadratic": operators(run), "statistical_dimension": cones(run)}
        probes = range(RUNS[run].experiment.spectrum.probes)
        jobs["spectrum"] = [f"{operator}_probe{probe}" for operator in operators(run) for probe in probes]
        jobs["rank"] = jobs["sweep"] = RUNS[run].experiment.pruning.methods
        jobs["finetune"] = [f"{method}_{token}" for method, token in finetuned(run)]
        found += [{"run": run, "seed": seed, "rule": rule, "job": job} for rule in jobs for job in jobs[rule]]
    for item in found:
        unit = [f"{item['run']}_seed{item['seed']}"] if item["run"] else []
        name = "_".join(unit + ([item["job"]] if item["job"] else []))
        item["file"] = f"{BENCHMARKS}/{item['rule']}/{name}.tsv"
    return found


def final_tables():
    return [f"{RESULTS}/tables/{name}.parquet" for name in TABLES] + [f"{RESULTS}/tables/thresholds.csv"]


RUN_FIGURES = {
    "training_history": ["training"],
    "spectral_density": ["spectra"],
    "width_curve": ["width_curves", "predictions"],
    "sparsity_sweep": ["sweep", "predictions", "empirical"],
}


def final_figures():
    return [f"{RESULTS}/figures/predicted_vs_empirical.svg"] + [
        f"{RESULTS}/figures/{run}/{figure}.svg" for run in RUNS for figure in RUN_FIGURES
    ]
