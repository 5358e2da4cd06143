"""One network: all ways to form the product agree, take their best batch size, then take turns against the clock."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.limits import Peaks, layers_of, limits
from benchmarks.peers import CONTENDERS, REBUILT_MB, Contender, graph_bytes, prepare
from benchmarks.reporting import timed
from gwprune.curvature.operator import curvature_operator
from gwprune.predict import operator_for
from gwprune.spectral.predictors import PREDICTORS

LANCZOS_STEPS = 128
TOLERANCE = 1e-3
BLOCK = 4
MEMORY_FACTOR = 1.7  # bytes at the peak of a double backward over those of its graph, as seen on ResNet-18
LOSS = nn.CrossEntropyLoss()


class Disagreement(Exception):
    """A way to form the product gives another vector."""


@dataclass
class Case:
    """A network with its data.

    Attributes:
        data: what the samples are.
        sizes: batch sizes to choose from; each divides the number of samples and ``search_samples``.
        search_samples: how many samples the choice is made on.
        check_samples: how many the agreement is checked on, in two batches.
        repeat: time a second product of every way, not only of those that keep graphs.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    data: str
    sizes: tuple[int, ...]
    search_samples: int
    check_samples: int
    rounds: int
    repeat: bool

    @property
    def samples(self) -> int:
        return len(self.inputs)

    @property
    def dimension(self) -> int:
        return prepare(self.model).dimension


def unit_vectors(dimension: int, count: int = 1) -> Tensor:
    """Lanczos vectors have length one, and finite differences depend on it."""
    vectors = torch.randn(dimension, count, generator=torch.Generator().manual_seed(1))
    vectors /= vectors.norm(dim=0)
    return vectors[:, 0].contiguous() if count == 1 else vectors


def clean(model: nn.Module) -> None:
    """Free what the last contender held: PyHessian leaves its graphs in ``grad``, others may leave cycles."""
    prepare(model)
    gc.collect()


def check_agreement(case: Case, contenders: dict[str, Contender]) -> dict[str, float | str]:
    """Compare every contender with double backward in float64.

    Args:
        case: the network.
        contenders: by name.

    Returns:
        Name -> relative error of its product, or what it raised.

    Raises:
        Disagreement: naming the first exact contender whose error is above ``TOLERANCE``.
    """
    inputs, targets = case.inputs[: case.check_samples], case.targets[: case.check_samples]
    vector = unit_vectors(prepare(case.model).dimension)
    double = case.model.double()  # in place, and back: rounding to float64 and back changes nothing
    reference = CONTENDERS["double_backward"].make(double, LOSS, inputs.double(), targets, len(inputs))(vector.double())
    case.model.float()
    errors: dict[str, float | str] = {}
    for name, contender in contenders.items():
        prepare(case.model)
        try:
            product = contender.make(case.model, LOSS, inputs, targets, batch_size(contender, len(inputs) // 2))
            error = ((product(vector).double() - reference).norm() / reference.norm()).item()
        except Exception as failure:  # reported in the tables  # noqa: BLE001
            errors[name] = f"{type(failure).__name__}: {failure}"
            continue
        if contender.exact and not error <= TOLERANCE:
            raise Disagreement(f"{case.name}: the product of {name} differs by {error:.2g} of its norm")
        errors[name] = error
    return errors


def batch_size(contender: Contender, size: int) -> int | None:
    return None if contender.batches == "own" else size


def search(case: Case, contender: Contender, vector: Tensor, sizes: list[int]) -> dict[int, float]:
    """Seconds of one product on the search samples for each batch size."""
    inputs, targets = case.inputs[: case.search_samples], case.targets[: case.search_samples]
    seconds = {}
    for size in sizes:
        prepare(case.model)
        product = contender.make(case.model, LOSS, inputs, targets, size)
        seconds[size] = min(timed(partial(product, vector))[0] for _ in range(2))
    return seconds


def measure(case: Case, contender: Contender, size: int | None, vector: Tensor) -> dict[str, float]:
    """Seconds of set-up, first and later product."""
    clean(case.model)
    setup, product = timed(lambda: contender.make(case.model, LOSS, case.inputs, case.targets, size))
    first, _ = timed(lambda: product(vector))
    later = timed(lambda: product(vector))[0] if contender.keeps or case.repeat else first
    run = (setup + first + (LANCZOS_STEPS - 1) * later) / LANCZOS_STEPS
    return {"setup": setup, "first": first, "later": later, "single": setup + first, "run": run}


def setup_in_products(case: Case) -> float:
    """Seconds from a network to the operator of a default prediction over those of a later product.

    That is with all checks and the search for dead units, so the whole of what comes before the first step.
    """
    clean(case.model)
    data, vector = (case.inputs, case.targets), unit_vectors(case.dimension)
    setup, operator = timed(lambda: operator_for(PREDICTORS["width"], case.model, LOSS, data, seed=0))
    operator @ vector
    return setup / timed(lambda: operator @ vector)[0]


def block_ratios(case: Case, size: int) -> dict[str, float]:
    """Seconds of H @ V over four times those of H @ v: graphs kept and there, on a fresh operator, and not kept."""
    v, block = unit_vectors(case.dimension), unit_vectors(case.dimension, BLOCK)

    def fresh(**options: int) -> Callable[[Tensor], Tensor]:
        clean(case.model)
        operator = curvature_operator(case.model, LOSS, (case.inputs, case.targets), **options)
        return lambda vectors: operator @ vectors

    def ratio(single: Callable, several: Callable) -> float:
        seconds = timed(lambda: single(v))[0]
        return timed(lambda: several(block))[0] / (BLOCK * seconds)

    kept = fresh()
    kept(v)
    ratios = {"kept": ratio(kept, kept)}
    del kept
    ratios["fresh"] = ratio(fresh(), fresh())
    rebuilt = fresh(batch_size=size, memory_mb=REBUILT_MB)
    rebuilt(v)
    return {**ratios, "rebuilt": ratio(rebuilt, rebuilt)}


def run(case: Case, rounds: int, memory_gb: float, log: Callable[[str], None]) -> dict[str, Any]:
    """Time all contenders on one network.

    Args:
        case: the network.
        rounds: turns of every contender.
        memory_gb: no batch whose product needs more.
        log: is given a line after each step.

    Returns:
        What benchmarks/results/products.json holds of the network; seconds are medians over the rounds.
    """
    contenders = {name: contender for name, contender in CONTENDERS.items() if contender.version}
    failures = {name: "not installed" for name in CONTENDERS if name not in contenders}
    vector = unit_vectors(case.dimension)
    errors = check_agreement(case, contenders)
    failures |= {name: error for name, error in errors.items() if isinstance(error, str)}
    per_sample = graph_bytes(case.model, LOSS, case.inputs, case.targets)
    largest = int(memory_gb * 2**30 / MEMORY_FACTOR / per_sample)
    sizes = [size for size in case.sizes if size <= largest] or [min(case.sizes)]
    chosen: dict[str, int | None] = {}
    for name, contender in contenders.items():
        if name in failures:
            continue
        if contender.batches == "all" and case.samples > largest:
            failures[name] = f"skipped: its graph takes {per_sample * case.samples / 2**30:.1f} GiB"
        elif contender.batches == "search":
            seconds_of = search(case, contender, vector, sizes)
            chosen[name] = min(seconds_of, key=seconds_of.__getitem__)
            log(f"{case.name}: {name} takes batches of {chosen[name]}")
        else:
            chosen[name] = batch_size(contender, case.samples)
    prepare(case.model)
    peaks = Peaks(layers_of(case.model, case.inputs), sizes)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    blocks, setups = [], []
    for _ in range(rounds):
        peaks.measure()
        setups.append(setup_in_products(case))
        for name, size in chosen.items():
            seconds = measure(case, contenders[name], size, vector)
            figures[name].append(seconds)
            log(f"{case.name}: {name} takes {seconds['first']:.3g} s, then {seconds['later']:.3g} s")
        if case.repeat and "gwprune_rebuilt" in chosen:
            blocks.append(block_ratios(case, chosen["gwprune_rebuilt"]))
    clean(case.model)
    return {
        "samples": case.samples,
        "dimension": case.dimension,
        "data": case.data,
        "rounds": rounds,
        "limit": limits(peaks, case.samples),
        "graph_bytes_per_sample": per_sample,
        "contenders": {
            name: {"error": failures[name], "version": CONTENDERS[name].version}
            if name in failures
            else {
                "batch_size": chosen[name],
                "version": CONTENDERS[name].version,
                "relative_error": errors[name],
                **{key: median(part[key] for part in figures[name]) for key in figures[name][0]},
            }
            for name in CONTENDERS
        },
        "setup_in_products": median(setups),
        "block": {key: median(part[key] for part in blocks) for key in blocks[0]} if blocks else None,
    }
