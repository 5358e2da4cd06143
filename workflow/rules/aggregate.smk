rule collect:
    input:
        unpack(parts),
    output:
        **{name: run_table(name) for name in RUN_TABLES},
    log:
        f"{LOGS}/collect/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/collect/{{run}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        parts=PARTS,
        criteria=criteria,
        facts=facts,
        asked=lambda wildcards: settings(wildcards).experiment.pruning.sparsities,
        benchmarks=benchmarks,
        config=run_provenance,
    script:
        "../scripts/collect.py"


rule aggregate:
    input:
        **{name: [run_table(name).format(run=run) for run in RUNS] for name in RUN_TABLES},
    output:
        **{name: f"{RESULTS}/tables/{name}.parquet" for name in TABLES},
        csv=f"{RESULTS}/tables/thresholds.csv",
        markdown=f"{RESULTS}/tables/comparison.md",
        html=report(
            f"{RESULTS}/tables/comparison.html",
            caption="../report/comparison.rst",
            category="Comparison of methods",
            labels={"table": "comparison"},
        ),
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
        benchmarks=shared_benchmarks(),
        # Another digest, and the tables are made again.
        published=lambda wildcards: config_hash({"rows": published_rows()}),
        config=PROVENANCE,
    script:
        "../scripts/aggregate.py"
