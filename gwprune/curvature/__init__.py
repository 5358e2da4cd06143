"""Curvature of the loss on the prunable weights, as operators that are known by their products.

It knows a network, a loss function and samples, no file and no configuration. Read first: `operator`, then `graphs`
(what a product differentiates), `tape` (fast layers), `compaction` (the same matrix with less work) and `dead_units`
(how a network becomes smaller).
"""
