def spectrum_settings(*keys):
    return lambda wildcards: settings(wildcards).section("spectrum", *keys)


rule spectrum:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
    output:
        probe=f"{UNIT}/spectrum/{{operator}}_probe{{probe}}.npz",
    params:
        settings=spectrum_settings("steps", "samples", "batch_size", "memory_mb", "reorthogonalize"),
        device=CONFIG.device,
    log:
        f"{LOGS}/spectrum/{{run}}_seed{{seed}}_{{operator}}_probe{{probe}}.log",
    benchmark:
        f"{BENCHMARKS}/spectrum/{{run}}_seed{{seed}}_{{operator}}_probe{{probe}}.tsv"
    threads: threads_of("spectrum")
    resources:
        mem_mb=memory_of("spectrum"),
        runtime=runtime_of("spectrum"),
        gpu=GPU,
    conda:
        ENVIRONMENT
    script:
        "../scripts/spectrum.py"


rule quadratic:
    input:
        data=data_file,
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
    output:
        predictions=f"{UNIT}/predictions/quadratic_{{operator}}.parquet",
    params:
        settings=spectrum_settings("samples", "batch_size", "memory_mb"),
        epsilon_rules=epsilon_rules,
        device=CONFIG.device,
    log:
        f"{LOGS}/quadratic/{{run}}_seed{{seed}}_{{operator}}.log",
    benchmark:
        f"{BENCHMARKS}/quadratic/{{run}}_seed{{seed}}_{{operator}}.tsv"
    threads: threads_of("spectrum")
    resources:
        mem_mb=memory_of("spectrum"),
        runtime=runtime_of("spectrum"),
        gpu=GPU,
    conda:
        ENVIRONMENT
    script:
        "../scripts/quadratic.py"
