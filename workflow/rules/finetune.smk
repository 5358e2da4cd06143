rule finetune:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    output:
        sweep=f"{UNIT}/fine_tuned/{{method}}_{{sparsity}}.parquet",
    params:
        recipe=lambda wildcards: settings(wildcards).fine_tuning(),
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.pt",
        device=CONFIG.device,
    log:
        f"{LOGS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.log",
    benchmark:
        f"{BENCHMARKS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.tsv"
    threads: threads_of("finetune")
    resources:
        mem_mb=memory_of("finetune"),
        runtime=runtime_of("finetune"),
        gpu=GPU,
    conda:
        ENVIRONMENT
    script:
        "../scripts/finetune.py"
