from gwprune.jobs.job import from_snakemake
from gwprune.jobs.chains import measure_states

with from_snakemake(snakemake) as job:
    measure_states(
        job,
        snakemake.input.data,
        snakemake.input.states,
        snakemake.output.sweep,
        method=snakemake.wildcards.method,
        sparsities=snakemake.params.sparsities,
        l1=snakemake.params.l1,
    )
