from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import SpectrumSettings, spectrum

with from_snakemake(snakemake) as job:
    settings = SpectrumSettings(
        operator=snakemake.wildcards.operator,
        probe=int(snakemake.wildcards.probe),
        checkpoint=snakemake.params.checkpoint,
        **snakemake.params.settings,
    )
    spectrum(job, dict(snakemake.input.items()), dict(snakemake.output.items()), settings)
