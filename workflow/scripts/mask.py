from gwprune.jobs.job import from_snakemake
from gwprune.jobs.pruned import mask_weights

with from_snakemake(snakemake) as job:
    mask_weights(
        job,
        snakemake.input.network,
        snakemake.output.mask,
        method=snakemake.wildcards.method,
        sparsity=int(snakemake.wildcards.sparsity) / 1e6,
        data=snakemake.input.get("data"),
        **snakemake.params.settings,
    )
