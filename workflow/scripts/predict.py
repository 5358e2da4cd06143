from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import predict

with from_snakemake(snakemake) as job:
    predict(
        job,
        snakemake.input.network,
        snakemake.input.dense,
        snakemake.params.probes,
        spectra=snakemake.output.spectra,
        curves=snakemake.output.curves,
        predictions=snakemake.output.predictions,
        epsilon_rules=snakemake.params.epsilon_rules,
        sparsities=snakemake.params.sparsities,
    )
