rule run_figure:
    input:
        lambda wildcards: [f"{RESULTS}/tables/{name}.parquet" for name in RUN_FIGURES[wildcards.figure]],
    output:
        figure=report(
            f"{RESULTS}/figures/{{run}}/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Runs",
            subcategory="{run}",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{LOGS}/figures/{{run}}_{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{run}}_{{figure}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        tables=lambda wildcards: RUN_FIGURES[wildcards.figure],
    script:
        "../scripts/figure.py"


rule threshold_figure:
    input:
        f"{RESULTS}/tables/thresholds.parquet",
    output:
        figure=report(
            f"{RESULTS}/figures/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Predicted and empirical thresholds",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{figure}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        tables=["thresholds"],
    script:
        "../scripts/figure.py"
