"""The deviation of the loss between mini-batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune.config.sections import Training
from gwprune.network.losses import BatchDeviation, BatchLoss, batch_deviation
from gwprune.network.samples import batches_of, mini_batch_size

from .helpers_networks import labels, normal


def deviation(samples: int, size: int) -> tuple[float, int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double().train()
    data = normal(23, 4)[:samples], labels(23, 3)[:samples]
    found = batch_deviation(model, BatchLoss(functional.cross_entropy), batches_of(data, size), size)
    assert all(module.training for module in model.modules())
    return found.value, found.batches


def test_it_is_that_of_whole_batches_in_stored_order_in_eval_mode():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    inputs, targets = normal(23, 4), labels(23, 3)
    with torch.no_grad():
        losses = [
            float(functional.cross_entropy(model(inputs[start : start + 5]), targets[start : start + 5]))
            for start in (0, 5, 10, 15)
        ]
    value, batches = deviation(23, 5)
    assert batches == 4
    assert value == pytest.approx(np.std(losses, ddof=1), rel=1e-12)
    # The three samples that are left over do not count.
    assert deviation(20, 5) == (value, 4)


@pytest.mark.parametrize(("samples", "batches"), [(9, 1), (5, 1), (4, 0)])
def test_fewer_than_two_whole_batches_have_none(samples: int, batches: int):
    assert deviation(samples, 5) == (0.0, batches)


@pytest.mark.parametrize(("heavy", "batches"), [(False, 12), (False, 400), (True, 400)])
def test_its_standard_error_is_how_much_it_varies(heavy: bool, batches: int):
    rng = np.random.default_rng(0)
    draws = rng.standard_t(10, (2000, batches)) if heavy else rng.standard_normal((2000, batches))
    found = [BatchDeviation.of(torch.from_numpy(row)) for row in draws]
    spread = np.std([each.value for each in found])
    # Whichever of the two formulas gives more: for few normal numbers a little too much.
    assert 0.93 * spread < np.mean([each.standard_error for each in found]) < 1.25 * spread
    normal_formula = np.mean([each.value for each in found]) / np.sqrt(2 * (batches - 1))
    assert (normal_formula < 0.9 * spread) == heavy


def test_the_default_batch_size_is_that_of_the_workflow():
    assert Training().batch_size == mini_batch_size(())


def test_batches_that_count_nothing_are_left_out():
    model, inputs, targets = nn.Linear(4, 3).double(), normal(20, 4), labels(20, 3)
    targets[5:10] = -100
    loss = BatchLoss(functional.cross_entropy, weight=lambda y: (y != -100).sum())
    found = batch_deviation(model, loss, batches_of((inputs, targets), 5), 5)
    assert found.batches == 3
    assert found.value > 0
