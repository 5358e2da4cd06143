"""The deviation of the loss between mini-batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune.network.losses import batch_deviation
from gwprune.network.samples import batches_of

from .helpers_networks import labels, normal


def deviation(samples: int, size: int) -> tuple[float, int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double().train()
    data = normal(23, 4)[:samples], labels(23, 3)[:samples]
    result = batch_deviation(model, functional.cross_entropy, batches_of(data, size), size)
    assert all(module.training for module in model.modules())
    return result


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
