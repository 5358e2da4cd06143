rule aggregate:
    input:
        **parts(),
        dense=[f"{unit}/dense.json" for _, _, unit in units()],
    output:
        **{name: f"{RESULTS}/tables/{name}.parquet" for name in TABLES},
        csv=f"{RESULTS}/tables/thresholds.csv",
    log:
        f"{LOGS}/aggregate.log",
    benchmark:
        f"{BENCHMARKS}/aggregate.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
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
        config=CONFIG.model_dump(mode="json", exclude={"resources", "results", "data_dir"}),
    script:
        "../scripts/aggregate.py"
