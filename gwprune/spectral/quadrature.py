"""Quadrature rules of a spectral measure from its Jacobi coefficients, with certified bounds.

Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapters 3 and 6; the rules of the
squared matrix are our own, from Jensen's operator inequality.
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
    """Two rules of the measure of (A^2, v), nodes |lambda|, that bound an integral from below and from above.

    With the basis V of m Lanczos steps ``A V = V' E``, E the Jacobi matrix with the row ``beta_m e_m^T`` below it, and
    ``V^T A^2 V = E^T E``. For a function of A^2 that is operator convex, as ``c / (c + |A|)``, Jensen's operator
    inequality (Hansen and Pedersen 1982) gives ``v^T phi(A^2) v >= e_1^T phi(E^T E) e_1``: the singular values of E as
    nodes, the first components of its right singular vectors squared as weights. The same inequality for
    ``(phi(0) - phi(x)) / x`` and the start ``A v`` bounds from above: the weights come from the left singular vectors,
    and the left null vector holds the weight of the node 0. Each shrinks with every step; for the resolvents
    ``1 / (t + A^2)`` the two are the ends of the Weyl disc, so nothing tighter follows from these coefficients.
    """
    steps, index = jacobi.steps, np.arange(jacobi.steps)
    extended = np.zeros((steps + 1, steps))
    extended[index, index] = jacobi.alpha
    extended[index + 1, index] = jacobi.beta
    extended[index[:-1], index[1:]] = jacobi.beta[:-1]
    left, values, right = np.linalg.svd(extended)
    return Rule(values, right[:, 0] ** 2), Rule(np.append(values, 0.0), left[0] ** 2)
