from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import ProductsSettings, predict_with_products

with from_snakemake(snakemake) as job:
    settings = ProductsSettings(
        predictor="quadratic",
        operators=snakemake.params.operators,
        epsilon_rules=snakemake.params.epsilon_rules,
        probes={},
        **snakemake.params.settings,
    )
    predict_with_products(job, dict(snakemake.input.items()), dict(snakemake.output.items()), settings)
