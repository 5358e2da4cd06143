def parts():
    """Table -> part files of all runs and seeds."""
    found = {"training": [], "spectra": [], "width_curves": [], "predictions": [], "sweep": []}
    for run, _, unit in units():
        for table in ("training", "spectra", "width_curves"):
            found[table].append(f"{unit}/{table}.parquet")
        found["predictions"].append(f"{unit}/predictions/width.parquet")
        found["predictions"] += [f"{unit}/predictions/quadratic_{name}.parquet" for name in operators(run)]
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
        jobs = {"train": [""], "predict": [""], "quadratic": operators(run)}
        probes = range(RUNS[run].experiment.spectrum.probes)
        jobs["spectrum"] = [f"{operator}_probe{probe}" for operator in operators(run) for probe in probes]
        jobs["rank"] = jobs["sweep"] = RUNS[run].experiment.pruning.methods
        jobs["finetune"] = [f"{method}_{token}" for method, token in finetuned(run)]
        found += [
            {"run": run, "seed": seed, "rule": rule, "job": job} for rule in jobs for job in jobs[rule]
        ]
    for item in found:
        unit = [f"{item['run']}_seed{item['seed']}"] if item["run"] else []
        name = "_".join(unit + ([item["job"]] if item["job"] else []))
        item["file"] = f"{BENCHMARKS}/{item['rule']}/{name}.tsv"
    return found


rule aggregate:
    input:
        **parts(),
        dense=[f"{unit}/dense.json" for _, _, unit in units()],
    output:
        **{name: f"{RESULTS}/tables/{name}.parquet" for name in TABLES},
        csv=f"{RESULTS}/tables/thresholds.csv",
    params:
        parts=list(parts()),
        criteria=[
            {
                "run": run,
                "seed": seed,
                "epsilon_rules": RUNS[run].experiment.epsilon,
                "accuracy_drops": RUNS[run].experiment.criteria.accuracy_drop,
            }
            for run, seed, _ in units()
        ],
        benchmarks=benchmarks(),
        config=CONFIG.model_dump(mode="json"),
    log:
        f"{LOGS}/aggregate.log",
    benchmark:
        f"{BENCHMARKS}/aggregate.tsv"
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    conda:
        ENVIRONMENT
    script:
        "../scripts/aggregate.py"
