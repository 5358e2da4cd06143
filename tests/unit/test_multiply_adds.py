"""Multiply-adds: closed forms of known networks, and a count by hand of every product."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.training.multiply_adds import layer_nonzeros, multiply_adds, weight_uses

from .helpers_layers import Conv1D
from .helpers_networks import Net, normal


def dense(model: nn.Module, *shape: int) -> int:
    prunable = PrunableSet(model)
    return multiply_adds(weight_uses(model, prunable, shape), prunable.sizes)


def by_hand(images: int, kernel: int, stride: int, padding: int, size: int) -> int:
    """Output pixels of a square convolution, by walking over them."""
    return sum(1 for _ in range(0, size + 2 * padding - kernel + 1, stride)) ** 2 * images


def test_a_fully_connected_network_uses_each_weight_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    assert weight_uses(model, PrunableSet(model), (1, 28, 28)) == [1, 1]
    assert dense(model, 1, 28, 28) == 784 * 300 + 300 * 10


def test_lenet_5_in_closed_form():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    expected = 784 * 6 * 25 + 100 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert expected == 416_520
    assert dense(model, 1, 28, 28) == expected


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 2, 0), (4, 3, 2), (1, 2, 0)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_with_stride_padding_and_groups(kernel, stride, padding, groups):
    model = nn.Conv2d(4, 8, kernel, stride=stride, padding=padding, groups=groups)
    pixels = by_hand(1, kernel, stride, padding, 11)
    assert weight_uses(model, PrunableSet(model), (4, 11, 11)) == [pixels]
    assert dense(model, 4, 11, 11) == pixels * 8 * (4 // groups) * kernel**2


def test_a_linear_layer_on_a_sequence_is_used_once_a_position():
    model = nn.Linear(5, 3)
    assert weight_uses(model, PrunableSet(model), (7, 5)) == [7]
    assert dense(model, 7, 5) == 7 * 15


def test_the_linear_layer_of_transformers_is_used_once_a_position():
    model = nn.Sequential(nn.Linear(4, 6), Conv1D(3, 6))
    prunable = PrunableSet(model, "*")
    assert weight_uses(model, prunable, (5, 4)) == [5, 5]
    assert multiply_adds([5, 5], prunable.sizes) == 5 * (4 * 6 + 6 * 3)


def test_a_convolution_in_one_dimension():
    assert dense(nn.Conv1d(2, 3, 3), 2, 10) == 8 * 2 * 3 * 3


def test_a_layer_that_is_called_twice_counts_twice():
    model = Net(lambda self, x: self.layer(torch.relu(self.layer(x))), layer=nn.Linear(6, 6))
    assert weight_uses(model, PrunableSet(model), (6,)) == [2]


def test_layers_that_share_a_weight_add_up():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    prunable = PrunableSet(model)
    assert weight_uses(model, prunable, (4,)) == [2]
    assert multiply_adds([2], prunable.sizes) == 32


def test_only_weights_that_are_kept_count():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    prunable = PrunableSet(model)
    uses = weight_uses(model, prunable, (1, 6, 6))
    kept = torch.zeros(prunable.dimension, dtype=torch.bool)
    kept[[0, 1, 17, 18]] = True  # three of the convolution's 18 weights, one linear one
    assert layer_nonzeros(prunable, kept) == [3, 1]
    assert multiply_adds(uses, layer_nonzeros(prunable, kept)) == 3 * 16 + 1
    assert multiply_adds(uses, layer_nonzeros(prunable, ~kept)) + 3 * 16 + 1 == dense(model, 1, 6, 6)
    assert layer_nonzeros(prunable, torch.zeros_like(kept)) == [0, 0]
    assert multiply_adds(uses, [0, 0]) == 0


def test_the_count_is_that_of_a_convolution_written_as_loops():
    weight, image = normal(2, 3, 3, 3), normal(3, 7, 7, seed=1)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    padded = functional.pad(image, (1, 1, 1, 1))
    products, output = 0, torch.zeros(2, 4, 4, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            patch = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            for channel in range(2):
                for index in mask[channel].nonzero():
                    output[channel, row, column] += weight[channel][tuple(index)] * patch[tuple(index)]
                    products += 1
    model = nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=False, dtype=torch.float64)
    model.weight.data = weight * mask
    assert torch.allclose(model(image[None])[0], output)
    prunable = PrunableSet(model)
    uses = weight_uses(model, prunable, (3, 7, 7))
    assert multiply_adds(uses, layer_nonzeros(prunable, mask.flatten())) == products


def test_counting_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    weight_uses(model, PrunableSet(model), (1, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_resnet_20_costs_what_its_paper_family_says():
    """Convolutions and the last layer of ResNet-20 on CIFAR-10, counted block by block."""
    model = models.build("resnet20", (3, 32, 32), 10)
    pixels = {16: 32 * 32, 32: 16 * 16, 64: 8 * 8}
    total = pixels[16] * 3 * 16 * 9 + 64 * 10
    total += 6 * pixels[16] * 16 * 16 * 9
    for width in (32, 64):
        total += pixels[width] * (width // 2) * width * 9 + 5 * pixels[width] * width * width * 9
    assert dense(model, 3, 32, 32) == total
