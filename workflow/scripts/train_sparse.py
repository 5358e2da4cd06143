from gwprune.jobs.job import from_snakemake
from gwprune.jobs.masked import train_sparse

with from_snakemake(snakemake) as job:
    train_sparse(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.input.masks,
        snakemake.output.sweep,
        method=snakemake.wildcards.method,
        sparsities=snakemake.params.sparsities,
        recipe=snakemake.params.recipe,
        epochs=snakemake.params.epochs,
        checkpoint=snakemake.params.checkpoint,
    )
