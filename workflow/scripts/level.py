from gwprune.jobs.job import from_snakemake
from gwprune.jobs.chains import level

with from_snakemake(snakemake) as job:
    level(
        job,
        snakemake.input.data,
        snakemake.input.before,
        snakemake.output.state,
        level=snakemake.params.level,
        recipe=snakemake.params.recipe,
        epochs=snakemake.params.epochs,
        checkpoint=snakemake.params.checkpoint,
        rewound=snakemake.input.get("rewound"),
    )
