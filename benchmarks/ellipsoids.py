"""Ellipsoids of known spectrum, and the exact codimension at which random subspaces stop meeting them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

EPSILON = 0.5


def _levels(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], np.ndarray]:
    return lambda dimension: function((np.arange(dimension) + 0.5) / dimension)


# Eigenvalues in falling order; power laws and outliers by rank, the others by quantile.
SPECTRA: dict[str, Callable[[int], np.ndarray]] = {
    "flat": np.ones,
    "two levels": _levels(lambda q: np.where(q < 0.5, 1.0, 1e-3)),
    "power law 1/2": lambda dimension: np.arange(1, dimension + 1) ** -0.5,
    "power law 1": lambda dimension: np.arange(1, dimension + 1) ** -1.0,
    "power law 2": lambda dimension: np.arange(1, dimension + 1) ** -2.0,
    "power law 3": lambda dimension: np.arange(1, dimension + 1) ** -3.0,
    "exponential": _levels(lambda q: np.exp(-20 * q)),
    "log-uniform": _levels(lambda q: 10 ** (-6 * q)),
    "ten outliers": lambda dimension: np.append(np.geomspace(100, 10, 10), np.geomspace(1e-3, 1e-7, dimension - 10)),
    "low rank": _levels(lambda q: np.where(q < 0.2, 1 - 2.5 * q, 0.0)),
}
# Centre and its distance: sqrt(w^T H w / 2 eps), which is 1 on the surface of the ellipsoid about the origin.
PLACES = (("random", 3.0), ("soft", 1.1), ("stiff", 30.0))


@dataclass(frozen=True)
class Case:
    """An ellipsoid of a named spectrum, whose centre lies in the stiff, the soft or a random direction."""

    spectrum: str
    direction: str
    distance: float

    def __str__(self) -> str:
        return f"{self.spectrum}, {self.direction} {self.distance:g}"


@dataclass(frozen=True)
class Ellipsoid:
    """``{x : 1/2 |root (x - center)|^2 <= epsilon}``, the root with one row for each eigenvalue that is not 0."""

    root: np.ndarray
    center: np.ndarray
    epsilon: float = EPSILON

    @property
    def matrix(self) -> np.ndarray:
        return self.root.T @ self.root

    def width(self) -> float:
        """The formula ``1/D sum_i 2 eps / (2 eps + R^2 lambda_i)`` at the distance R of the centre."""
        rank, dimension = self.root.shape
        scaled = np.linalg.norm(self.center) ** 2 * np.linalg.norm(self.root, axis=1) ** 2
        return float((np.sum(2 * self.epsilon / (2 * self.epsilon + scaled)) + dimension - rank) / dimension)


def cases() -> Iterator[Case]:
    for spectrum in SPECTRA:
        for direction, distance in PLACES:
            # A ball looks the same from everywhere.
            yield Case(spectrum, "random" if spectrum == "flat" else direction, distance)


def ellipsoid(case: Case, dimension: int, rng: np.random.Generator) -> Ellipsoid:
    """The case's ellipsoid with a random orthonormal eigenbasis and a centre drawn within its direction."""
    eigenvalues = SPECTRA[case.spectrum](dimension)
    basis = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    rank = np.count_nonzero(eigenvalues)  # a centre where the curvature is 0 would be at distance 0
    share = max(1, dimension // 20)
    part = {"random": slice(None), "stiff": slice(share), "soft": slice(rank - share, rank)}[case.direction]
    coordinates = np.zeros(dimension)
    coordinates[part] = rng.standard_normal(len(coordinates[part]))
    coordinates *= case.distance * np.sqrt(2 * EPSILON / (eigenvalues @ coordinates**2))
    root = np.sqrt(eigenvalues[:rank, None]) * basis[:, :rank].T
    return Ellipsoid(root, basis @ coordinates)


def smallest_rises(shape: Ellipsoid, vectors: np.ndarray) -> np.ndarray:
    """``min 1/2 |root (x - center)|^2`` over the span of the first k columns of ``vectors``, for k = 0, 1, ..., all.

    The least-squares residuals of growing sets of columns are what one QR factorisation leaves of the right-hand side.
    Columns must be in general position: as many as the rank of the root reach every residual, and the rest is 0.
    """
    rank = len(shape.root)
    target = shape.root @ shape.center
    factor = np.linalg.qr(shape.root @ vectors[:, :rank])[0]
    parts = factor.T @ target
    # With a full rank of columns nothing but rounding is left over.
    rest = 0.0 if len(parts) == rank else float(np.sum((target - factor @ parts) ** 2))
    residuals = np.append(np.cumsum(parts[::-1] ** 2)[::-1], 0.0) + rest
    return np.append(residuals, np.zeros(vectors.shape[1] - len(parts))) / 2


def critical_codimension(shape: Ellipsoid, rng: np.random.Generator) -> int:
    """The largest codimension at which the nested subspaces of one trial meet the ellipsoid."""
    rank, dimension = shape.root.shape
    rises = smallest_rises(shape, rng.standard_normal((dimension, rank)))
    return dimension - int(np.argmax(rises <= shape.epsilon))
