from gwprune.jobs.job import from_snakemake
from gwprune.jobs.results import draw

with from_snakemake(snakemake) as this:
    for figure, tables in snakemake.params.figures.items():
        draw(figure, {name: snakemake.input[name] for name in tables}, snakemake.output[figure], run=this.run)
