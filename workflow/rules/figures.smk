rule run_figures:
    input:
        **{name: run_table(name) for name in sorted(set(itertools.chain(*RUN_FIGURES.values())))},
    output:
        **{
            name: report(
                f"{RESULTS}/figures/{{run}}/{name}.svg",
                caption=f"../report/{name}.rst",
                category="Runs",
                subcategory="{run}",
                labels={"figure": name},
            )
            for name in RUN_FIGURES
        },
    log:
        f"{LOGS}/figures/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{run}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        figures=RUN_FIGURES,
    script:
        "../scripts/figure.py"


rule threshold_figure:
    input:
        thresholds=f"{RESULTS}/tables/thresholds.parquet",
    output:
        predicted_vs_empirical=report(
            f"{RESULTS}/figures/predicted_vs_empirical.svg",
            caption="../report/predicted_vs_empirical.rst",
            category="Predicted and empirical thresholds",
            labels={"figure": "predicted_vs_empirical"},
        ),
    log:
        f"{LOGS}/figures/predicted_vs_empirical.log",
    benchmark:
        f"{BENCHMARKS}/figures/predicted_vs_empirical.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        figures={"predicted_vs_empirical": ["thresholds"]},
    script:
        "../scripts/figure.py"
