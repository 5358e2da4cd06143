from gwprune.jobs import job
from gwprune.stages.dense import prepare_data

with job(snakemake.log[0]):
    prepare_data(snakemake.output.data, dataset=snakemake.params.dataset, data_dir=snakemake.config.get("data_dir", "data"))
