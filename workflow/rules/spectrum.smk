rule spectrum:
    input:
        data=PLAN.data,
        network=FILE("network"),
    output:
        probe=FILE("probe"),
    log:
        PLAN.log("spectrum"),
    benchmark:
        PLAN.benchmark("spectrum")
    conda:
        ENVIRONMENT
    threads: threads_of("spectrum")
    resources:
        **resources_of("spectrum"),
    params:
        settings=settings("spectrum"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
