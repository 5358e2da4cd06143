rule finetune:
    input:
        unpack(PLAN.ranking),
        unpack(PLAN.rewound),
        data=PLAN.data,
        network=FILE("network"),
    output:
        sweep=FILE("fine_tuned"),
    log:
        PLAN.log("finetune"),
    benchmark:
        PLAN.benchmark("finetune")
    conda:
        ENVIRONMENT
    threads: threads_of("finetune")
    resources:
        **resources_of("finetune"),
    params:
        settings=settings("finetune"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
