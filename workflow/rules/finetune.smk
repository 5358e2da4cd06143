rule finetune:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    output:
        sweep=f"{UNIT}/fine_tuned/{{method}}_{{sparsity}}.parquet",
    log:
        f"{LOGS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.log",
    benchmark:
        f"{BENCHMARKS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("finetune")
    resources:
        mem_mb=memory_of("finetune"),
        runtime=runtime_of("finetune"),
        gpu=GPU,
    params:
        recipe=lambda wildcards: settings(wildcards).fine_tuning(),
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.pt",
        device=CONFIG.device,
    script:
        "../scripts/finetune.py"
