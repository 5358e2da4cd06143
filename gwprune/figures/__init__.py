"""Figures of the result tables: Arrow tables in, one image file out (format by suffix). Needs no display.

They know tables, no network. Read first: `style` (what figures share), then `FIGURES`.
"""

from .dense import spectral_density, training_history
from .pruned import sparsity_sweep, tradeoff
from .thresholds import predicted_vs_empirical, width_curve

__all__ = ["FIGURES"]

FIGURES = {
    figure.__name__: figure
    for figure in (
        training_history,
        spectral_density,
        width_curve,
        sparsity_sweep,
        tradeoff,
        predicted_vs_empirical,
    )
}
