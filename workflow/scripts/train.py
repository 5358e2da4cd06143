from gwprune.jobs.job import from_snakemake
from gwprune.jobs.dense import train_dense

with from_snakemake(snakemake) as job:
    train_dense(
        job,
        snakemake.input.data,
        network=snakemake.output.network,
        history=snakemake.output.history,
        dense=snakemake.output.dense,
        description=snakemake.params.network,
        recipe=snakemake.params.recipe,
        checkpoint=snakemake.params.checkpoint,
    )
