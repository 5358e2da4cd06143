rule train:
    input:
        data=data_file,
    output:
        network=f"{UNIT}/network.pt",
        history=f"{UNIT}/training.parquet",
        dense=f"{UNIT}/dense.json",
    log:
        f"{LOGS}/train/{{run}}_seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{run}}_seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("train")
    resources:
        mem_mb=memory_of("train"),
        runtime=runtime_of("train"),
        gpu=GPU,
    params:
        network=lambda wildcards: settings(wildcards).experiment.network.model_dump(),
        recipe=lambda wildcards: settings(wildcards).recipe(),
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_train.pt",
        device=CONFIG.device,
    script:
        "../scripts/train.py"
