from gwprune.jobs import job
from gwprune.stages.results import draw

with job(snakemake.log[0]):
    draw(
        snakemake.wildcards.figure,
        dict(zip(snakemake.params.tables, snakemake.input)),
        snakemake.output.figure,
        run=snakemake.wildcards.get("run", ""),
    )
