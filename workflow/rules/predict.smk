def all_probes(wildcards):
    return [
        file for operator in operators(wildcards.run) for file in probe_files(*wildcards, operator)
    ]


rule predict:
    input:
        network=f"{UNIT}/network.pt",
        dense=f"{UNIT}/dense.json",
        probes=all_probes,
    output:
        spectra=f"{UNIT}/spectra.parquet",
        curves=f"{UNIT}/width_curves.parquet",
        predictions=f"{UNIT}/predictions/width.parquet",
    params:
        probes=lambda wildcards: {
            operator: probe_files(*wildcards, operator) for operator in operators(wildcards.run)
        },
        epsilon_rules=epsilon_rules,
        sparsities=lambda wildcards: settings(wildcards).experiment.pruning.sparsities,
    log:
        f"{LOGS}/predict/{{run}}_seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/predict/{{run}}_seed{{seed}}.tsv"
    threads: threads_of("tables")
    resources:
        mem_mb=memory_of("tables"),
        runtime=runtime_of("tables"),
    conda:
        ENVIRONMENT
    script:
        "../scripts/predict.py"
