from gwprune.jobs.job import from_snakemake
from gwprune.jobs.dense import prepare_data

with from_snakemake(snakemake):
    prepare_data(snakemake.output.data, dataset=snakemake.params.dataset, data_dir=snakemake.config.get("data_dir", "data"))
