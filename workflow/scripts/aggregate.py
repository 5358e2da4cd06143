from gwprune.jobs import from_snakemake
from gwprune.stages.results import aggregate
from gwprune.tables import TABLES

with from_snakemake(snakemake, settings=snakemake.params.config) as this:
    aggregate(
        this,
        {name: snakemake.input[name] for name in TABLES},
        {name: snakemake.output[name] for name in TABLES},
        benchmarks=snakemake.params.benchmarks,
        csv_file=snakemake.output.csv,
    )
