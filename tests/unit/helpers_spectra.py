"""Matrices with known spectra, a small trained network, and dense oracles for both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from gwprune.pruning import Ranking
from gwprune.spectral.lanczos import Jacobi, lanczos, rademacher
from gwprune.spectral.problem import Problem

EPS = np.finfo(float).eps


# --- matrices ---------------------------------------------------------------------------------------------------


def rotated(eigenvalues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Symmetric matrix of these eigenvalues in a random orthonormal basis."""
    basis = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))[0]
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def signs(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice([-1.0, 1.0], n)


KINDS = {
    "positive": lambda n, rng: rng.uniform(0.1, 1.0, n),
    "indefinite": lambda n, rng: rng.standard_normal(n),
    "low_rank": lambda n, rng: rng.standard_normal(n) * (np.arange(n) < max(1, n // 3)),
    "clustered": lambda n, rng: signs(n, rng) * 10.0 ** rng.uniform(-8, 0, n),
    "outlier": lambda n, rng: signs(n, rng) * 10.0 ** rng.uniform(-8, 0, n) * np.where(np.arange(n) == 0, 1e3, 1.0),
    "repeated": lambda n, rng: rng.choice([-2.0, -0.5, 0.0, 1e-6, 1.0, 3.0], n),
    "plus_minus": lambda n, rng: np.resize([1.0, -1.0], n) * np.repeat(rng.uniform(0, 1, n), 2)[:n],
}


@dataclass(frozen=True)
class Sample:
    """A symmetric matrix with the dense answer for everything that is asked of it."""

    matrix: np.ndarray

    @property
    def order(self) -> int:
        return len(self.matrix)

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(self.matrix)

    @property
    def eigenvalues(self) -> np.ndarray:
        return self._eigen[0]

    @property
    def norm(self) -> float:
        return float(np.abs(self.eigenvalues).max())

    def quadratic_form(self, vector: np.ndarray, function) -> np.ndarray:
        """``v^T function(|A|) v``."""
        values, vectors = self._eigen
        return function(np.abs(values)) @ (vectors.T @ vector) ** 2

    def trace(self, function) -> np.ndarray:
        return function(np.abs(self.eigenvalues)).sum(-1)


def make_sample(kind: str, n: int, seed: int, *, semidefinite: bool = False, rotate: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    eigenvalues = KINDS[kind](n, rng)
    if semidefinite:
        eigenvalues = np.abs(eigenvalues)
    return Sample(rotated(eigenvalues, rng) if rotate else np.diag(eigenvalues))


def samples(largest: int, *, semidefinite: bool = False):
    """Strategy: matrices of every kind, of order 2 to ``largest``."""
    return st.builds(
        make_sample,
        kind=st.sampled_from(sorted(KINDS)),
        n=st.integers(2, largest),
        seed=st.integers(0, 2**32 - 1),
        semidefinite=st.just(semidefinite),
        rotate=st.sampled_from([True, True, True, False]),
    )


def width_function(c: np.ndarray | float):
    """``f(|lambda|) = c / (c + |lambda|)``, ``c = 2 eps / R^2``, for every c at once."""
    c = np.asarray(c, dtype=float)[..., None]
    return lambda size: c / (c + size)


def network_like_spectrum(n: int, rng: np.random.Generator) -> np.ndarray:
    """Most at and near 0 with both signs, a falling bulk, a few outliers: what a trained network shows."""
    return np.concatenate(
        [
            np.zeros(n // 5),
            rng.standard_normal(n - n // 5 - n // 3 - 5) * 1e-6,
            1.0 / np.arange(1, n // 3 + 1) ** 2,
            [5.0, 8.0, 13.0, 21.0, 34.0],
        ]
    )


# --- Lanczos ----------------------------------------------------------------------------------------------------


def start_for(n: int, seed: int = 0) -> Tensor:
    return rademacher(n, seed).double()


def run(matrix: np.ndarray, steps: int, start: Tensor | None = None, **options) -> Jacobi:
    start = start_for(len(matrix)) if start is None else start
    return lanczos(torch.from_numpy(matrix), [start], steps, **options)[0]


def tridiagonal(jacobi: Jacobi) -> np.ndarray:
    off = jacobi.beta[:-1]
    return np.diag(jacobi.alpha) + np.diag(off, 1) + np.diag(off, -1)


# --- problems ---------------------------------------------------------------------------------------------------


def problem_of(operator, weights, **options) -> Problem:
    """What predictors are computed from, when the smallest weights go first."""
    weights = torch.as_tensor(weights)
    ranking = Ranking.of_scores(weights.abs())
    return Problem(
        weights=weights, ranks=ranking.ranks, norms=ranking.pruned_norms(weights), operator=operator, **options
    )


# --- networks ---------------------------------------------------------------------------------------------------


def dense_functions(model: nn.Module, names: list[str], inputs):
    """(output as a function of the flat weights called ``names``, those weights), by ``torch.func`` alone."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor.detach() for name, tensor in state.items()}
    shapes = [state[name].shape for name in names]
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)

    def output(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        replaced = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(model, {**state, **replaced}, arguments)

    return output, torch.cat([state[name].reshape(-1) for name in names])


def dense_hessian(model: nn.Module, loss_fn, inputs, targets, names: list[str]) -> Tensor:
    output, weights = dense_functions(model, names, inputs)
    return jacrev(jacrev(lambda vector: loss_fn(output(vector), targets)), chunk_size=148)(weights)


def dense_ggn(model: nn.Module, loss_fn, inputs, targets, names: list[str]) -> Tensor:
    output, weights = dense_functions(model, names, inputs)
    value = output(weights)
    jacobian = jacrev(output, chunk_size=256)(weights).reshape(value.numel(), -1)
    curvature = hessian(lambda head: loss_fn(head, targets))(value).reshape(value.numel(), value.numel())
    return jacobian.t() @ curvature @ jacobian


DENSE = {"hessian": dense_hessian, "ggn": dense_ggn}


@dataclass(frozen=True)
class Digits:
    """A 64-16-10 network on scikit-learn's digits after a few dozen steps, float64, D = 1184."""

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor

    names = ("0.weight", "2.weight")

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        return self.inputs, self.targets

    @property
    def weights(self) -> np.ndarray:
        return torch.cat([self.model[0].weight.reshape(-1), self.model[2].weight.reshape(-1)]).detach().numpy()

    @property
    def norms(self) -> np.ndarray:
        """R after removing the 0, 1, ..., D smallest weights."""
        return np.sqrt(np.append(0.0, np.cumsum(np.sort(np.abs(self.weights)) ** 2)))

    @cached_property
    def curvature(self) -> dict[str, Sample]:
        functional = F.cross_entropy
        return {
            name: Sample(make(self.model, functional, self.inputs, self.targets, list(self.names)).numpy())
            for name, make in DENSE.items()
        }


@lru_cache(maxsize=1)
def digits() -> Digits:
    bunch = load_digits()
    images, labels = torch.tensor(bunch.data / 16), torch.tensor(bunch.target)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(80):
        part = slice(step % 10 * 128, step % 10 * 128 + 128)
        optimizer.zero_grad()
        penalty = 5e-4 * sum(model[i].weight.abs().sum() for i in (0, 2))
        (F.cross_entropy(model(images[part]), labels[part]) + penalty).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Digits(model.eval(), images[:300], labels[:300])
