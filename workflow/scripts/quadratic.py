from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import quadratic

with from_snakemake(snakemake) as job:
    quadratic(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.input.dense,
        snakemake.output.predictions,
        operators=snakemake.params.operators,
        epsilon_rules=snakemake.params.epsilon_rules,
        settings=snakemake.params.settings,
    )
