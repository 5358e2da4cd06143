rule rank:
    input:
        unpack(ranked_data),
        network=ranked_network,
    output:
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    log:
        f"{LOGS}/rank/{{run}}_seed{{seed}}_{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/rank/{{run}}_seed{{seed}}_{{method}}.tsv"
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
        "../scripts/rank.py"


rule sweep:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    output:
        sweep=f"{UNIT}/one_shot/{{method}}.parquet",
    log:
        f"{LOGS}/sweep/{{run}}_seed{{seed}}_{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/sweep/{{run}}_seed{{seed}}_{{method}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("sweep")
    resources:
        mem_mb=memory_of("sweep"),
        runtime=runtime_of("sweep"),
        gpu=GPU,
    params:
        l1=lambda wildcards: settings(wildcards).l1,
        epochs=lambda wildcards: settings(wildcards).experiment.training.epochs,
        pruning=lambda wildcards: settings(wildcards).section("pruning", "sparsities", "resolution"),
        epsilon_rules=epsilon_rules,
        accuracy_drops=accuracy_drops,
        device=CONFIG.device,
    script:
        "../scripts/sweep.py"
