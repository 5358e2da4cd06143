from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import PredictSettings, predict

with from_snakemake(snakemake) as job:
    settings = PredictSettings(
        probes=snakemake.params.probes,
        epsilon_rules=snakemake.params.epsilon_rules,
        sparsities=snakemake.params.sparsities,
    )
    predict(job, dict(snakemake.input.items()), dict(snakemake.output.items()), settings)
