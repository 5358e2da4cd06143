rule predict:
    input:
        unpack(PLAN.probes),
        unpack(PLAN.rankings("predict")),
        network=FILE("network"),
        dense=FILE("dense"),
    output:
        spectra=FILE("spectra"),
        width_curves=FILE("width_curves"),
        predictions=FILE("predictions"),
    log:
        PLAN.log("predict"),
    benchmark:
        PLAN.benchmark("predict")
    conda:
        ENVIRONMENT
    threads: threads_of("predict")
    resources:
        **resources_of("predict"),
    params:
        settings=settings("predict"),
        device="cpu",
    script:
        "../scripts/job.py"


# A predictor that needs products with the operator has a rule of its own, which the registry of predictors makes.
for predictor in WITH_PRODUCTS:

    rule:
        name:
            predictor
        input:
            unpack(PLAN.known_spectrum(predictor)),
            unpack(PLAN.rankings(predictor)),
            data=PLAN.data,
            network=FILE("network"),
            dense=FILE("dense"),
        output:
            predictions=FILE(predictor),
        log:
            PLAN.log(predictor),
        benchmark:
            PLAN.benchmark(predictor)
        conda:
            ENVIRONMENT
        threads: threads_of(predictor)
        resources:
            **resources_of(predictor),
        params:
            settings=settings(predictor),
            device=CONFIG.device,
        script:
            "../scripts/job.py"
