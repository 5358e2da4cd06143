def dataset_of(wildcards):
    return next(
        run.experiment.dataset.model_dump() for run in RUNS.values() if run.dataset_key == wildcards.dataset
    )


rule prepare_data:
    output:
        data=f"{RESULTS}/data/{{dataset}}.pt",
    params:
        dataset=dataset_of,
        data_dir=CONFIG.data_dir,
    log:
        f"{LOGS}/prepare_data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_data/{{dataset}}.tsv"
    threads: threads_of("prepare")
    resources:
        mem_mb=memory_of("prepare"),
        runtime=runtime_of("prepare"),
    conda:
        ENVIRONMENT
    script:
        "../scripts/prepare_data.py"
