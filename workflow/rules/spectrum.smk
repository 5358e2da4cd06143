rule spectrum:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
    output:
        probe=f"{UNIT}/spectrum/{{operator}}_probe{{probe}}.npz",
    log:
        f"{LOGS}/spectrum/{{run}}_seed{{seed}}_{{operator}}_probe{{probe}}.log",
    benchmark:
        f"{BENCHMARKS}/spectrum/{{run}}_seed{{seed}}_{{operator}}_probe{{probe}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("spectrum")
    resources:
        mem_mb=memory_of("spectrum"),
        runtime=runtime_of("spectrum"),
        gpu=GPU,
    params:
        settings=spectrum_settings("steps", "samples", "batch_size", "memory_mb", "reorthogonalize", "basis"),
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{operator}}_probe{{probe}}.products",
        device=CONFIG.device,
    script:
        "../scripts/spectrum.py"


rule quadratic:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
    output:
        predictions=f"{UNIT}/predictions/quadratic.parquet",
    log:
        f"{LOGS}/quadratic/{{run}}_seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/quadratic/{{run}}_seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("spectrum")
    resources:
        mem_mb=memory_of("spectrum"),
        runtime=runtime_of("spectrum"),
        gpu=GPU,
    params:
        operators=lambda wildcards: operators(wildcards.run),
        settings=spectrum_settings("samples", "batch_size", "memory_mb"),
        epsilon_rules=epsilon_rules,
        device=CONFIG.device,
    script:
        "../scripts/quadratic.py"


rule statistical_dimension:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
        probes=lambda wildcards: probe_files(wildcards.run, wildcards.seed, wildcards.operator),
    output:
        predictions=f"{UNIT}/predictions/statistical_dimension_{{operator}}.parquet",
    log:
        f"{LOGS}/statistical_dimension/{{run}}_seed{{seed}}_{{operator}}.log",
    benchmark:
        f"{BENCHMARKS}/statistical_dimension/{{run}}_seed{{seed}}_{{operator}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("spectrum")
    resources:
        mem_mb=memory_of("spectrum"),
        runtime=runtime_of("spectrum"),
        gpu=GPU,
    params:
        settings=spectrum_settings("cone_steps", "samples", "batch_size", "memory_mb", "reorthogonalize", "basis"),
        checkpoint=f"{CHECKPOINTS}/{{run}}_seed{{seed}}_{{operator}}_cones.products",
        epsilon_rules=epsilon_rules,
        device=CONFIG.device,
    script:
        "../scripts/statistical_dimension.py"
