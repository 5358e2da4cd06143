rule rank:
    input:
        unpack(PLAN.ranked),
        data=PLAN.data,
    output:
        ranking=FILE("ranking"),
    log:
        PLAN.log("rank"),
    benchmark:
        PLAN.benchmark("rank")
    conda:
        ENVIRONMENT
    threads: threads_of("rank")
    resources:
        **resources_of("rank"),
    params:
        settings=settings("rank"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"


rule sweep:
    input:
        unpack(PLAN.ranking),
        data=PLAN.data,
        network=FILE("network"),
        dense=FILE("dense"),
    output:
        sweep=FILE("one_shot"),
    log:
        PLAN.log("sweep"),
    benchmark:
        PLAN.benchmark("sweep")
    conda:
        ENVIRONMENT
    threads: threads_of("sweep")
    resources:
        **resources_of("sweep"),
    params:
        settings=settings("sweep"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
