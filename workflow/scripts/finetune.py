from gwprune.jobs.job import from_snakemake
from gwprune.jobs.masked import finetune

with from_snakemake(snakemake) as job:
    finetune(
        job,
        snakemake.input.data,
        snakemake.input.network,
        snakemake.input.ranking,
        snakemake.output.sweep,
        method=snakemake.wildcards.method,
        sparsities=snakemake.params.sparsities,
        recipe=snakemake.params.recipe,
        epochs=snakemake.params.epochs,
        checkpoint=snakemake.params.checkpoint,
        rewound=snakemake.input.get("rewound"),
        first_epoch=snakemake.params.first_epoch,
    )
