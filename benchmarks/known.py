"""Large symmetric matrices of known spectrum with cheap products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, idct
from scipy.optimize import brentq

from gwprune.spectral.lanczos import rademacher

EPSILON = 0.5


def width_function(pruned_norm: float) -> Callable[[np.ndarray], np.ndarray]:
    """``f(|lambda|) = 2 eps / (2 eps + R^2 |lambda|)``."""
    return lambda sizes: 2 * EPSILON / (2 * EPSILON + pruned_norm**2 * sizes)


@dataclass(frozen=True)
class Known:
    """A symmetric matrix of known spectrum that is never formed: ``C^T diag(eigenvalues) C``, then rows of zeros.

    C is a cosine transform. The eigenvalues come in random order, which spreads every eigenvector over all coordinates
    and leaves no function of the matrix near its diagonal: random signs have no easy case here.
    """

    name: str
    eigenvalues: np.ndarray
    zero_rows: int = 0
    operator: str = ""  # "ggn" tells squared_width that the matrix is positive semi-definite

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.eigenvalues) + self.zero_rows,) * 2

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        active = len(self.eigenvalues)
        result = np.zeros_like(x)
        values = self.eigenvalues.reshape(-1, *[1] * (x.ndim - 1))
        result[:active] = idct(values * dct(x[:active], axis=0, norm="ortho"), axis=0, norm="ortho")
        return result

    @property
    def sizes(self) -> np.ndarray:
        return np.abs(self.eigenvalues)

    def width(self, pruned_norm: float) -> float:
        """The exact ``1/D tr f(|A|)``."""
        return float((width_function(pruned_norm)(self.sizes).sum() + self.zero_rows) / self.shape[0])

    def probe_width(self, pruned_norm: float, seed: int, probe: int) -> float:
        """The exact ``1/D v^T f(|A|) v`` of a probe, with its squared entries where the rows are zero."""
        signs = rademacher(self.shape[0], seed, probe).double().numpy()[: len(self.eigenvalues)]
        energies = dct(signs, norm="ortho") ** 2
        return float((width_function(pruned_norm)(self.sizes) @ energies + self.zero_rows) / self.shape[0])

    def pruned_norm(self, width: float) -> float:
        """The norm R at which the exact width is ``width``."""
        return float(np.exp(brentq(lambda log: self.width(np.exp(log)) - width, -30, 30)))


def matrices(seed: int) -> Iterator[Known]:
    """Those of the study."""
    rng = np.random.default_rng(seed)
    yield Known("power law", rng.permutation(np.arange(1, 1501) ** -1.0))
    yield Known("power law, semi-definite", rng.permutation(np.arange(1, 1501) ** -1.0), operator="ggn")
    cluster = 1e-3 * rng.standard_normal(1180)
    yield Known("indefinite, 20 outliers", rng.permutation(np.append(cluster, np.geomspace(0.1, 10, 20))))
    low_rank = np.append(np.zeros(400), rng.choice([-1.0, 1.0], 300) * rng.uniform(0.1, 1, 300))
    yield Known("low rank, 30% zero rows", rng.permutation(low_rank), zero_rows=300)
