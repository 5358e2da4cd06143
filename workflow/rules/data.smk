rule prepare_data:
    output:
        data=FILE("data"),
    log:
        PATH("logs/prepare_data/{dataset}.log"),
    benchmark:
        PATH("benchmarks/prepare_data/{dataset}.tsv")
    conda:
        ENVIRONMENT
    threads: threads_of("prepare_data")
    resources:
        **resources_of("prepare_data"),
    params:
        settings=settings("prepare_data"),
    script:
        "../scripts/job.py"
