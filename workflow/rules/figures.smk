rule run_figures:
    input:
        **{name: PLAN.run_table(name) for tables in RUN_FIGURES.values() for name in tables},
    output:
        **{
            name: report(
                PATH(f"figures/{{run}}/{name}.svg"),
                caption=f"../report/{name}.rst",
                category="Runs",
                subcategory="{run}",
                labels={"figure": name},
            )
            for name in RUN_FIGURES
        },
        **{f"{name}_png": PATH(f"figures/{{run}}/{name}.png") for name in RUN_FIGURES},
    log:
        PATH("logs/figures/{run}.log"),
    benchmark:
        PATH("benchmarks/figures/{run}.tsv")
    conda:
        ENVIRONMENT
    threads: threads_of("run_figures")
    resources:
        **resources_of("run_figures"),
    params:
        settings=settings("run_figures"),
    script:
        "../scripts/job.py"


rule threshold_figure:
    input:
        thresholds=PLAN.table("thresholds"),
    output:
        predicted_vs_empirical=report(
            PATH("figures/predicted_vs_empirical.svg"),
            caption="../report/predicted_vs_empirical.rst",
            category="Predicted and empirical thresholds",
            labels={"figure": "predicted_vs_empirical"},
        ),
        predicted_vs_empirical_png=PATH("figures/predicted_vs_empirical.png"),
    log:
        PATH("logs/figures/predicted_vs_empirical.log"),
    benchmark:
        PATH("benchmarks/figures/predicted_vs_empirical.tsv")
    conda:
        ENVIRONMENT
    threads: threads_of("threshold_figure")
    resources:
        **resources_of("threshold_figure"),
    params:
        settings=settings("threshold_figure"),
    script:
        "../scripts/job.py"
