rule prepare_data:
    output:
        data=f"{RESULTS}/data/{{dataset}}.pt",
    log:
        f"{LOGS}/prepare_data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_data/{{dataset}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("prepare")
    resources:
        mem_mb=memory_of("prepare"),
        runtime=runtime_of("prepare"),
    params:
        dataset=dataset_of,
    script:
        "../scripts/prepare_data.py"
