from gwprune.jobs.job import from_snakemake
from gwprune.jobs.results import aggregate
from gwprune.tables.schemas import RUN_TABLES, TABLES

with from_snakemake(snakemake, settings=snakemake.params.config) as this:
    aggregate(
        this,
        {name: snakemake.input[name] for name in RUN_TABLES},
        {name: snakemake.output[name] for name in TABLES},
        benchmarks=snakemake.params.benchmarks,
        csv_file=snakemake.output.csv,
        pages={kind: snakemake.output[kind] for kind in ("markdown", "html")},
    )
