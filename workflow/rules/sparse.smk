# Networks that are trained while they are sparse: on a given mask, or level by level.
rule mask:
    input:
        unpack(PLAN.ranked),
        data=PLAN.data,
    output:
        mask=FILE("mask"),
    log:
        PLAN.log("mask"),
    benchmark:
        PLAN.benchmark("mask")
    conda:
        ENVIRONMENT
    threads: threads_of("mask")
    resources:
        **resources_of("mask"),
    params:
        settings=settings("mask"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"


rule train_sparse:
    input:
        unpack(PLAN.masks),
        data=PLAN.data,
    output:
        sweep=FILE("trained"),
    log:
        PLAN.log("train_sparse"),
    benchmark:
        PLAN.benchmark("train_sparse")
    conda:
        ENVIRONMENT
    threads: threads_of("train_sparse")
    resources:
        **resources_of("train_sparse"),
    params:
        settings=settings("train_sparse"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"


rule level:
    input:
        unpack(PLAN.before),
        data=PLAN.data,
    output:
        state=FILE("state"),
    log:
        PLAN.log("level"),
    benchmark:
        PLAN.benchmark("level")
    conda:
        ENVIRONMENT
    threads: threads_of("level")
    resources:
        **resources_of("level"),
    params:
        settings=settings("level"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"


rule measure:
    input:
        data=PLAN.data,
        states=PLAN.states,
    output:
        sweep=FILE("measured"),
    log:
        PLAN.log("measure"),
    benchmark:
        PLAN.benchmark("measure")
    conda:
        ENVIRONMENT
    threads: threads_of("measure")
    resources:
        **resources_of("measure"),
    params:
        settings=settings("measure"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
