from gwprune.jobs.job import from_snakemake
from gwprune.jobs.results import collect
from gwprune.tables.schemas import RUN_TABLES

with from_snakemake(snakemake, settings=snakemake.params.config) as this:
    collect(
        this,
        {name: snakemake.input[name] for name in snakemake.params.parts},
        {name: snakemake.output[name] for name in RUN_TABLES},
        dense=snakemake.input.dense,
        criteria=snakemake.params.criteria,
        facts=snakemake.params.facts,
        asked=snakemake.params.asked,
        benchmarks=snakemake.params.benchmarks,
    )
