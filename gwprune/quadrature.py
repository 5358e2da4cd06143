"""Quadrature rules of a spectral measure from its Jacobi coefficients, with certified bounds.

Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapters 3 and 6.
A rule is a pair (nodes, weights); the weights of one rule sum to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from .lanczos import Jacobi

__all__ = ["Rule", "gauss", "radau", "ritz", "squared"]


class Rule(NamedTuple):
    """Nodes (m,) and weights (m,) of a quadrature rule."""

    nodes: np.ndarray
    weights: np.ndarray


def _eigen(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(alpha) == 1:
        return alpha.copy(), np.ones((1, 1))
    return eigh_tridiagonal(alpha, beta)


def ritz(jacobi: Jacobi) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (m,) and eigenvectors (m, m, one a column) of the Jacobi matrix."""
    return _eigen(jacobi.alpha, jacobi.beta[:-1])


def gauss(jacobi: Jacobi) -> Rule:
    """Gauss rule with m nodes: exact for polynomials up to degree 2m - 1 (Golub and Welsch 1969)."""
    nodes, vectors = ritz(jacobi)
    return Rule(nodes, vectors[0] ** 2)


def radau(jacobi: Jacobi, node: float = 0.0) -> Rule:
    """Gauss-Radau rule with m + 1 nodes, one of them ``node``: exact up to degree 2m (Golub 1973).

    The appended diagonal entry is ``node + beta_m^2 [(T_m - node)^-1]_mm``. An exact measure gives its Gauss rule.
    """
    if jacobi.exact:
        return gauss(jacobi)
    nodes, vectors = ritz(jacobi)
    shifted = nodes - node
    # T_m has an eigenvalue at the node already: the limit is approached from a gap below rounding.
    tiny = np.finfo(float).eps * max(np.abs(nodes).max(), jacobi.beta[-1])
    shifted = np.where(np.abs(shifted) < tiny, tiny, shifted)
    last = node + jacobi.beta[-1] ** 2 * np.sum(vectors[-1] ** 2 / shifted)
    nodes, vectors = _eigen(np.append(jacobi.alpha, last), jacobi.beta)
    # The fixed node comes out of the eigenvalue solver with rounding; it is known exactly.
    nodes[np.argmin(np.abs(nodes - node))] = node
    return Rule(nodes, vectors[0] ** 2)


def squared(jacobi: Jacobi) -> tuple[Rule, Rule]:
    """Gauss and Gauss-Radau (at 0) rules of the measure of (A^2, v), as nodes |lambda|, without a further product.

    On the Krylov space A is the Jacobi matrix T, and v is ``e_1``. Golub-Kahan bidiagonalisation ``T U = P B`` from
    ``e_1`` gives the Jacobi matrix of A^2 as ``B^T B``; the singular values of B are the Gauss nodes, those of B with
    its next column the Radau nodes, the last one 0. Nothing is squared, so small nodes keep their digits. j steps
    reach row 2j + 1 of T, so m Lanczos steps and their residual norm carry floor(m/2).

    Both rules are the Gauss rule of A itself, exact, when the measure is.

    Raises:
        ValueError: with fewer than 2 steps, unless the measure is exact.
    """
    if jacobi.exact:
        nodes, weights = gauss(jacobi)
        return (Rule(np.abs(nodes), weights),) * 2
    m = jacobi.steps
    if m < 2:
        raise ValueError("the rules of the squared operator need at least 2 Lanczos steps")
    # Row m + 1 is reached, its diagonal entry never used.
    diagonal, off = np.append(jacobi.alpha, 0.0), jacobi.beta

    def multiply(x: np.ndarray) -> np.ndarray:
        y = diagonal * x
        y[:-1] += off * x[1:]
        y[1:] += off * x[:-1]
        return y

    def normalised(x: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float]:
        for _ in range(2):
            x = x - basis.T @ (basis @ x)
        norm = float(np.linalg.norm(x))
        return (x / norm if norm > floor else x), (norm if norm > floor else 0.0)

    floor = 10 * np.finfo(float).eps * (np.abs(diagonal).max() + 2 * off.max())
    right, left = np.zeros((m // 2 + 1, m + 1)), np.zeros((m // 2, m + 1))
    right[0, 0] = 1.0
    rows: list[float] = []
    couplings: list[float] = []
    for step in range(m // 2):
        left[step], norm = normalised(multiply(right[step]), left[:step])
        rows.append(norm)
        if norm == 0.0:  # A is singular on an invariant space: the node 0 belongs to the measure
            break
        right[step + 1], norm = normalised(multiply(left[step]), right[: step + 1])
        if norm == 0.0:
            break
        couplings.append(norm)
    exact = norm == 0.0

    def rule(matrix: np.ndarray) -> Rule:
        _, values, vectors = np.linalg.svd(matrix)
        return Rule(np.append(values, np.zeros(matrix.shape[1] - len(values))), vectors[:, 0] ** 2)

    size = len(rows)
    wide = np.zeros((size, size + 1))
    wide[np.arange(size), np.arange(size)] = rows
    wide[np.arange(len(couplings)), np.arange(len(couplings)) + 1] = couplings
    lower = rule(wide[:, :size])
    return lower, lower if exact else rule(wide)
