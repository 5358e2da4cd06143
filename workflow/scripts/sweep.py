from gwprune.jobs.job import from_snakemake
from gwprune.jobs.pruned import sweep

with from_snakemake(snakemake) as job:
    sweep(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.input.ranking,
        snakemake.input.dense,
        snakemake.output.sweep,
        method=snakemake.wildcards.method,
        l1=snakemake.params.l1,
        epochs=snakemake.params.epochs,
        **snakemake.params.pruning,
        epsilon_rules=snakemake.params.epsilon_rules,
        accuracy_drops=snakemake.params.accuracy_drops,
    )
