# Networks that are trained while they are sparse: on a given mask, or level by level.
rule snapshot:
    input:
        data=data_file,
    output:
        network=f"{UNIT}/snapshots/{{epoch}}.pt",
    log:
        f"{LOGS}/snapshot/{{run}}_seed{{seed}}_{{epoch}}.log",
    benchmark:
        f"{BENCHMARKS}/snapshot/{{run}}_seed{{seed}}_{{epoch}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("train")
    resources:
        mem_mb=memory_of("train"),
        runtime=runtime_of("train"),
        gpu=GPU,
    params:
        network=lambda wildcards: settings(wildcards).experiment.network.model_dump(),
        # The untrained network depends on no recipe.
        recipe=lambda wildcards: settings(wildcards).recipe() if int(wildcards.epoch) else None,
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_snapshot_{{epoch}}.pt",
        device=CONFIG.device,
    script:
        "../scripts/snapshot.py"


rule mask:
    input:
        unpack(ranked_data),
        network=f"{UNIT}/snapshots/0.pt",
    output:
        mask=f"{UNIT}/masks/{{method}}_{{sparsity}}.pt",
    log:
        f"{LOGS}/mask/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.log",
    benchmark:
        f"{BENCHMARKS}/mask/{{run}}_seed{{seed}}_{{method}}_{{sparsity}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("sweep")
    resources:
        mem_mb=memory_of("sweep"),
        runtime=runtime_of("sweep"),
        gpu=GPU,
    params:
        settings=ranking_settings,
        device=CONFIG.device,
    script:
        "../scripts/mask.py"


rule train_sparse:
    input:
        data=data_file,
        network=f"{UNIT}/snapshots/0.pt",
        masks=sparse_masks,
    output:
        sweep=f"{UNIT}/trained/{{method}}_{{chunk}}.parquet",
    log:
        f"{LOGS}/train_sparse/{{run}}_seed{{seed}}_{{method}}_{{chunk}}.log",
    benchmark:
        f"{BENCHMARKS}/train_sparse/{{run}}_seed{{seed}}_{{method}}_{{chunk}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("sparse_training")
    resources:
        mem_mb=memory_of("sparse_training"),
        runtime=lambda wildcards, attempt: len(sparse_chunk(wildcards))
        * runtime_of("sparse_training")(wildcards, attempt),
        gpu=GPU,
    params:
        sparsities=sparse_chunk,
        recipe=lambda wildcards: settings(wildcards).sparse_recipe(),
        epochs=epochs_of_masks,
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{method}}_{{chunk}}_trained",
        device=CONFIG.device,
    script:
        "../scripts/train_sparse.py"


rule level:
    input:
        unpack(before_level),
        data=data_file,
    output:
        state=f"{UNIT}/iterative/{{method}}/{{node}}.pt",
    log:
        f"{LOGS}/level/{{run}}_seed{{seed}}_{{method}}_{{node}}.log",
    benchmark:
        f"{BENCHMARKS}/level/{{run}}_seed{{seed}}_{{method}}_{{node}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("sparse_training")
    resources:
        mem_mb=memory_of("sparse_training"),
        runtime=runtime_of("sparse_training"),
        gpu=GPU,
    params:
        level=lambda wildcards: asdict(node_of(wildcards).level),
        recipe=lambda wildcards: {**settings(wildcards).recipe(), "epochs": node_of(wildcards).level.epochs},
        epochs=epochs_before_chain,
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{method}}_{{node}}.pt",
        device=CONFIG.device,
    script:
        "../scripts/level.py"


rule measure:
    input:
        data=data_file,
        states=final_states,
    output:
        sweep=f"{UNIT}/trained/{{method}}.parquet",
    log:
        f"{LOGS}/measure/{{run}}_seed{{seed}}_{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/measure/{{run}}_seed{{seed}}_{{method}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("sweep")
    resources:
        mem_mb=memory_of("sweep"),
        runtime=runtime_of("sweep"),
        gpu=GPU,
    params:
        sparsities=lambda wildcards: settings(wildcards).experiment.sparse_training.sparsities,
        l1=lambda wildcards: settings(wildcards).l1,
        device=CONFIG.device,
    script:
        "../scripts/measure.py"
