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


# The asked sparsities and the control lie side by side; the search between them is one job after the other.
rule bracket:
    input:
        unpack(PLAN.ranking),
        unpack(PLAN.rewound),
        unpack(PLAN.finetuned),
        data=PLAN.data,
        network=FILE("network"),
        dense=FILE("dense"),
    output:
        sweep=FILE("bracketed"),
    log:
        PLAN.log("bracket"),
    benchmark:
        PLAN.benchmark("bracket")
    conda:
        ENVIRONMENT
    threads: threads_of("bracket")
    resources:
        **resources_of("bracket"),
    params:
        settings=settings("bracket"),
        device=CONFIG.device,
    script:
        "../scripts/job.py"
