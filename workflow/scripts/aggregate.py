from gwprune.jobs import job
from gwprune.stages.results import aggregate
from gwprune.tables import TABLES

with job(snakemake.log[0], settings=snakemake.params.config) as this:
    aggregate(
        this,
        {name: snakemake.input[name] for name in snakemake.params.parts},
        {name: snakemake.output[name] for name in TABLES},
        dense=snakemake.input.dense,
        criteria=snakemake.params.criteria,
        benchmarks=snakemake.params.benchmarks,
        csv_file=snakemake.output.csv,
    )
