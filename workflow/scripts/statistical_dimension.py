from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import statistical_dimension

with from_snakemake(snakemake) as job:
    statistical_dimension(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.input.dense,
        snakemake.input.probes,
        snakemake.output.predictions,
        operator=snakemake.wildcards.operator,
        epsilon_rules=snakemake.params.epsilon_rules,
        settings=snakemake.params.settings,
        checkpoint=snakemake.params.checkpoint,
    )
