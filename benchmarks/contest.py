"""One network: all ways to form the product agree, take their best batch size, then take turns against the clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.limits import Peaks, layers_of, limits
from benchmarks.peers import CONTENDERS, Contender, graph_bytes, gwprune_rebuilt, prepare
from gwprune.curvature.operator import curvature_operator

__all__ = ["BLOCK", "LANCZOS_STEPS", "TOLERANCE", "Case", "Disagreement", "run"]

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


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


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
    """Relative error of every contender against double backward in float64, or what it raised.

    Raises:
        Disagreement: naming the first exact contender whose error is above ``TOLERANCE``.
    """
    inputs, targets = case.inputs[: case.check_samples], case.targets[: case.check_samples]
    vector = unit_vectors(prepare(case.model).dimension)
    double = case.model.double()  # in place, and back: rounding to float64 and back changes nothing
    reference = CONTENDERS["double_backward"].make(double, LOSS, inputs.double(), targets, len(inputs))(vector.double())
    case.model.float()
    found: dict[str, float | str] = {}
    for name, contender in contenders.items():
        prepare(case.model)
        try:
            product = contender.make(case.model, LOSS, inputs, targets, batch_size(contender, len(inputs) // 2))
            error = ((product(vector).double() - reference).norm() / reference.norm()).item()
        except Exception as failure:  # reported in the tables  # noqa: BLE001
            found[name] = f"{type(failure).__name__}: {failure}"
            continue
        if contender.exact and not error <= TOLERANCE:
            raise Disagreement(f"{case.name}: the product of {name} differs by {error:.2g} of its norm")
        found[name] = error
    return found


def batch_size(contender: Contender, size: int) -> int | None:
    return None if contender.batches == "own" else size


def search(case: Case, contender: Contender, vector: Tensor, sizes: list[int]) -> dict[int, float]:
    """Seconds of one product on the search samples for each batch size."""
    inputs, targets = case.inputs[: case.search_samples], case.targets[: case.search_samples]
    found = {}
    for size in sizes:
        prepare(case.model)
        product = contender.make(case.model, LOSS, inputs, targets, size)
        found[size] = min(timed(partial(product, vector))[0] for _ in range(2))
    return found


def measure(case: Case, contender: Contender, size: int | None, vector: Tensor) -> dict[str, float]:
    """Seconds of set-up, first and later product."""
    clean(case.model)
    setup, product = timed(lambda: contender.make(case.model, LOSS, case.inputs, case.targets, size))
    first, _ = timed(lambda: product(vector))
    later = timed(lambda: product(vector))[0] if contender.keeps or case.repeat else first
    run = (setup + first + (LANCZOS_STEPS - 1) * later) / LANCZOS_STEPS
    return {"setup": setup, "first": first, "later": later, "single": setup + first, "run": run}


def block_ratios(case: Case, size: int) -> dict[str, float]:
    """Seconds of H @ V over four times those of H @ v: graphs kept and there, on a fresh operator, and not kept."""
    v, block = unit_vectors(case_dimension(case)), unit_vectors(case_dimension(case), BLOCK)

    def fresh() -> Callable[[Tensor], Tensor]:
        clean(case.model)
        operator = curvature_operator(case.model, LOSS, (case.inputs, case.targets))
        return lambda vectors: operator @ vectors

    def ratio(single: Callable, several: Callable) -> float:
        seconds = timed(lambda: single(v))[0]
        return timed(lambda: several(block))[0] / (BLOCK * seconds)

    kept = fresh()
    kept(v)
    found = {"kept": ratio(kept, kept)}
    del kept
    found["fresh"] = ratio(fresh(), fresh())
    rebuilt = gwprune_rebuilt(case.model, LOSS, case.inputs, case.targets, size)
    rebuilt(v)
    return {**found, "rebuilt": ratio(rebuilt, rebuilt)}


def case_dimension(case: Case) -> int:
    return prepare(case.model).dimension


def run(case: Case, rounds: int, memory_gb: float, log: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one network."""
    contenders = {name: contender for name, contender in CONTENDERS.items() if contender.version}
    failures = {name: "not installed" for name in CONTENDERS if name not in contenders}
    vector = unit_vectors(case_dimension(case))
    errors = check_agreement(case, contenders)
    failures |= {name: error for name, error in errors.items() if isinstance(error, str)}
    per_sample = graph_bytes(case.model, LOSS, case.inputs, case.targets)
    largest = int(memory_gb * 2**30 / MEMORY_FACTOR / per_sample)
    sizes = [size for size in case.sizes if size <= largest] or [min(case.sizes)]
    searches: dict[str, dict[int, float]] = {}
    chosen: dict[str, int | None] = {}
    for name, contender in contenders.items():
        if name in failures:
            continue
        if contender.batches == "all" and case.samples > largest:
            failures[name] = f"skipped: its graph takes {per_sample * case.samples / 2**30:.1f} GiB"
        elif contender.batches == "search":
            searches[name] = search(case, contender, vector, sizes)
            chosen[name] = min(searches[name], key=searches[name].__getitem__)
            log(f"{case.name}: {name} takes batches of {chosen[name]}")
        else:
            chosen[name] = batch_size(contender, case.samples)
    prepare(case.model)
    peaks = Peaks(layers_of(case.model, case.inputs), sizes)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    blocks = []
    for _ in range(rounds):
        peaks.measure()
        for name, size in chosen.items():
            seconds = measure(case, contenders[name], size, vector)
            figures[name].append(seconds)
            log(f"{case.name}: {name} takes {seconds['first']:.3g} s, then {seconds['later']:.3g} s")
        if case.repeat and "gwprune_rebuilt" in chosen:
            blocks.append(block_ratios(case, chosen["gwprune_rebuilt"]))
    clean(case.model)
    return {
        "samples": case.samples,
        "dimension": case_dimension(case),
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
                "search": searches.get(name),
                **{key: median(part[key] for part in figures[name]) for key in figures[name][0]},
                "fastest": {key: min(part[key] for part in figures[name]) for key in figures[name][0]},
            }
            for name in CONTENDERS
        },
        "block": {key: median(part[key] for part in blocks) for key in blocks[0]} if blocks else None,
    }
