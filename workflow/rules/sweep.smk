rule rank:
    input:
        network=f"{UNIT}/network.pt",
    output:
        ranking=f"{UNIT}/ranking/{{method}}.pt",
    params:
        device=CONFIG.device,
    log:
        f"{LOGS}/rank/{{run}}_seed{{seed}}_{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/rank/{{run}}_seed{{seed}}_{{method}}.tsv"
    threads: threads_of("sweep")
    resources:
        mem_mb=memory_of("sweep"),
        runtime=runtime_of("sweep"),
        gpu=GPU,
    conda:
        ENVIRONMENT
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
    params:
        l1=lambda wildcards: settings(wildcards).l1,
        pruning=lambda wildcards: settings(wildcards).section("pruning", "sparsities", "resolution"),
        epsilon_rules=epsilon_rules,
        accuracy_drops=accuracy_drops,
        device=CONFIG.device,
    log:
        f"{LOGS}/sweep/{{run}}_seed{{seed}}_{{method}}.log",
    benchmark:
        f"{BENCHMARKS}/sweep/{{run}}_seed{{seed}}_{{method}}.tsv"
    threads: threads_of("sweep")
    resources:
        mem_mb=memory_of("sweep"),
        runtime=runtime_of("sweep"),
        gpu=GPU,
    conda:
        ENVIRONMENT
    script:
        "../scripts/sweep.py"
