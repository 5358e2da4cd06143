"""A network as the rest of the package sees it: its prunable weights, its samples, its modes.

It knows `torch` alone. Read first: `prunable`, the one set of weights that the penalty, the curvature and the masks
all mean.
"""
