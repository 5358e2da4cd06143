rule finetune:
    input:
        unpack(rewound_network),
        data=data_file,
        network=f"{UNIT}/network.pt",
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    output:
        sweep=f"{UNIT}/fine_tuned/{{method}}_{{chunk}}.parquet",
    log:
        f"{LOGS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{chunk}}.log",
    benchmark:
        f"{BENCHMARKS}/finetune/{{run}}_seed{{seed}}_{{method}}_{{chunk}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("finetune")
    resources:
        mem_mb=memory_of("finetune"),
        runtime=lambda wildcards, attempt: len(chunk_of(wildcards)) * runtime_of("finetune")(wildcards, attempt),
        gpu=GPU,
    params:
        sparsities=chunk_of,
        recipe=lambda wildcards: settings(wildcards).fine_tuning(),
        epochs=lambda wildcards: settings(wildcards).experiment.training.epochs,
        first_epoch=lambda wildcards: settings(wildcards).first_finetuned_epoch,
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{method}}_{{chunk}}",
        device=CONFIG.device,
    script:
        "../scripts/finetune.py"
