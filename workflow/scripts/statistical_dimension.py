from gwprune.jobs.job import from_snakemake
from gwprune.jobs.prediction import ProductsSettings, predict_with_products

with from_snakemake(snakemake) as job:
    operator = snakemake.wildcards.operator
    settings = ProductsSettings(
        predictor="statistical_dimension",
        operators=[operator],
        epsilon_rules=snakemake.params.epsilon_rules,
        probes={operator: list(snakemake.input.probes)},
        checkpoint=snakemake.params.checkpoint,
        **snakemake.params.settings,
    )
    predict_with_products(job, dict(snakemake.input.items()), dict(snakemake.output.items()), settings)
