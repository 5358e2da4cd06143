rule train:
    input:
        unpack(PLAN.weights),
        data=PLAN.data,
    output:
        network=FILE("network"),
        history=FILE("training"),
        dense=FILE("dense"),
    log:
        PLAN.log("train"),
    benchmark:
        PLAN.benchmark("train")
    conda:
        ENVIRONMENT
    threads: threads_of("train")
    resources:
        **resources_of("train"),
    params:
        settings=settings("train"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"


rule snapshot:
    input:
        data=PLAN.data,
    output:
        network=FILE("snapshot"),
    log:
        PLAN.log("snapshot"),
    benchmark:
        PLAN.benchmark("snapshot")
    conda:
        ENVIRONMENT
    threads: threads_of("snapshot")
    resources:
        **resources_of("snapshot"),
    params:
        settings=settings("snapshot"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
