from gwprune.jobs.job import from_snakemake
from gwprune.jobs.pruned import rank_weights

with from_snakemake(snakemake) as job:
    rank_weights(
        job,
        snakemake.input.network,
        snakemake.output.ranking,
        method=snakemake.wildcards.method,
        data=snakemake.input.get("data"),
        **snakemake.params.settings,
    )
