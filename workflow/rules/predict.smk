rule predict:
    input:
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
        probes=all_probes,
    output:
        spectra=f"{UNIT}/spectra.parquet",
        curves=f"{UNIT}/width_curves.parquet",
        predictions=f"{UNIT}/predictions/width.parquet",
    log:
        f"{LOGS}/predict/{{run}}_seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/predict/{{run}}_seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    params:
        probes=lambda wildcards: {operator: probe_files(*wildcards, operator) for operator in operators(wildcards.run)},
        epsilon_rules=epsilon_rules,
        device="cpu",
        sparsities=lambda wildcards: settings(wildcards).experiment.pruning.sparsities,
    script:
        "../scripts/predict.py"
