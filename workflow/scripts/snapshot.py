from gwprune.jobs.job import from_snakemake
from gwprune.jobs.dense import snapshot

with from_snakemake(snakemake) as job:
    snapshot(
        job,
        snakemake.input.data,
        snakemake.output.network,
        description=snakemake.params.network,
        epoch=int(snakemake.wildcards.epoch),
        recipe=snakemake.params.recipe,
        checkpoint=snakemake.params.checkpoint,
    )
