rule collect:
    input:
        unpack(PLAN.parts),
    output:
        **{name: PLAN.run_table(name) for name in RUN_TABLES},
    log:
        PATH("logs/collect/{run}.log"),
    benchmark:
        PATH("benchmarks/collect/{run}.tsv")
    conda:
        ENVIRONMENT
    threads: threads_of("collect")
    resources:
        **resources_of("collect"),
    params:
        settings=settings("collect"),
        provenance=provenance,
    script:
        "../scripts/job.py"


rule aggregate:
    input:
        **{name: expand(PLAN.run_table(name), run=PLAN.runs) for name in RUN_TABLES},
    output:
        **{name: PLAN.table(name) for name in TABLES},
        readme=PATH("tables/README.md"),
        csv=PATH("tables/thresholds.csv"),
        markdown=PATH("tables/comparison.md"),
        html=report(
            PATH("tables/comparison.html"),
            caption="../report/comparison.rst",
            category="Comparison of methods",
            labels={"table": "comparison"},
        ),
    log:
        PATH("logs/aggregate.log"),
    benchmark:
        PATH("benchmarks/aggregate.tsv")
    conda:
        ENVIRONMENT
    threads: threads_of("aggregate")
    resources:
        **resources_of("aggregate"),
    params:
        settings=settings("aggregate"),
        provenance=provenance,
    script:
        "../scripts/job.py"
