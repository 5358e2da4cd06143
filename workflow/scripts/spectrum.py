from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import spectrum

with from_snakemake(snakemake) as job:
    spectrum(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.output.probe,
        operator=snakemake.wildcards.operator,
        probe=int(snakemake.wildcards.probe),
        settings=snakemake.params.settings,
        checkpoint=snakemake.params.checkpoint,
    )
