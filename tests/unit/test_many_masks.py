"""Many masks at once: the same numbers as mask by mask, and the dense network comes back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gwprune import models
from gwprune.datasets import DeviceSplit
from gwprune.evaluation import evaluate, pruned
from gwprune.many_masks import evaluate_masks
from gwprune.parameters import PrunableSet
from gwprune.pruning import rank, removed_count

SPARSITIES = [0.0, 0.001, 0.2, 0.201, 0.5, 0.5, 0.9, 0.95, 0.99, 0.999]


def split(count: int, seed: int) -> DeviceSplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return DeviceSplit(images, torch.randint(0, 10, (count,), generator=generator), [0.4], [0.3])


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "cnn":
        return models.build("cnn", (1, 8, 8), 10, channels=[4], hidden=8)
    model = models.build("fc", (1, 8, 8), 10, hidden=[40, 30], batch_norm=name == "batch norm")
    if name == "dead units":
        with torch.no_grad():
            model[1].weight[:15] = 0.0
            model[1].bias[:15] = -1.0
    return model


@pytest.mark.parametrize("name", ["fc", "dead units", "batch norm", "cnn"])
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_every_mask_gives_what_evaluation_of_the_pruned_network_gives(name, method):
    model, splits = network(name), [split(50, 0), split(33, 1)]
    prunable = PrunableSet(model)
    ranking = rank(method, prunable, 3)
    counts = [removed_count(sparsity, prunable.dimension) for sparsity in SPARSITIES]
    dense = prunable.flatten()
    found = []
    for row in evaluate_masks(model, prunable, ranking, counts, splits):
        assert torch.equal(prunable.flatten(), dense)
        found.append(row)
    assert len(found) == len(counts)
    with pruned(prunable, ranking, counts) as each:
        for _, row in zip(each, found, strict=True):
            for data, evaluation in zip(splits, row, strict=True):
                expected = evaluate(model, data)
                assert evaluation.loss == pytest.approx(expected.loss, rel=1e-5)
                assert evaluation.accuracy == pytest.approx(expected.accuracy, abs=3.1)  # a tie may turn by rounding
    assert torch.equal(prunable.flatten(), dense)


def test_counts_in_any_order_and_an_emptied_layer():
    model, data = network("fc"), split(40, 2)
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    counts = [prunable.dimension, 0, 500, 20]
    found = [row[0].loss for row in evaluate_masks(model, prunable, ranking, counts, [data])]
    for count, loss in zip(counts, found, strict=True):
        with pruned(prunable, ranking, [count]) as each:
            next(each)
            assert loss == pytest.approx(evaluate(model, data).loss, rel=1e-5)


def test_a_ranking_of_another_network_is_refused():
    model = network("fc")
    other = rank("magnitude", PrunableSet(network("cnn")), 0)
    with pytest.raises(ValueError, match="does not fit"):
        list(evaluate_masks(model, PrunableSet(model), other, [0, 1], [split(5, 0)]))
