"""Figures of the result tables: Arrow tables in, one image file out (format by suffix). Needs no display."""

from .axes import from_axis, sparsity_axis, to_axis
from .comparison import tradeoff
from .dense import spectral_density, training_history
from .pruned import predicted_vs_empirical, sparsity_sweep, width_curve

__all__ = [
    "FIGURES",
    "from_axis",
    "predicted_vs_empirical",
    "sparsity_axis",
    "sparsity_sweep",
    "spectral_density",
    "to_axis",
    "tradeoff",
    "training_history",
    "width_curve",
]

FIGURES = {
    "training_history": training_history,
    "spectral_density": spectral_density,
    "width_curve": width_curve,
    "sparsity_sweep": sparsity_sweep,
    "tradeoff": tradeoff,
    "predicted_vs_empirical": predicted_vs_empirical,
}
