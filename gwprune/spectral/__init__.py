"""Spectra of symmetric matrices: Lanczos, quadrature with certified bounds, width, quadratic model, cones.

Arrays and anything with ``shape`` and ``@`` come in, numbers go out. This package knows no network, no file and no
configuration. Read first: `lanczos` (coefficients), `quadrature` (rules from them), `spectrum` (integrals and
thresholds from the rules), `probes` (random starts). Each predictor is a function of a `problem`, registered in
`predictors`.
"""
