"""The prunable set: which weights it takes, in which order, and the flat vector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gwprune
from gwprune.network.prunable import PrunableSet


def distinct(model: nn.Module) -> nn.Module:
    """Give every weight of the network a value of its own."""
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(start, start + parameter.numel()).reshape(parameter.shape))
            start += parameter.numel()
    return model


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.norm = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(4, 2)


# --- membership -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Linear(3, 5), 15),
        (nn.Conv1d(2, 3, 4), 24),
        (nn.Conv2d(2, 3, (2, 5)), 60),
        (nn.Conv3d(2, 3, 2), 48),
        (nn.Conv2d(4, 6, 3, groups=2), 108),
        (nn.ConvTranspose1d(2, 3, 4), 24),
        (nn.ConvTranspose2d(2, 3, 4), 96),
        (nn.ConvTranspose3d(2, 3, 2), 48),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_takes_the_weight_but_not_the_bias_of_linear_and_convolution(layer: nn.Module, size: int):
    assert layer.bias is not None
    prunable = PrunableSet(layer)
    assert prunable.names == ["weight"]
    assert prunable.parameters[0] is layer.weight
    assert prunable.dimension == size == layer.weight.numel()


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.Embedding(5, 4),
        nn.EmbeddingBag(5, 4),
        nn.PReLU(4),
        nn.Bilinear(2, 3, 4),
        nn.ReLU(),
        nn.Sequential(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_nothing_else_is_prunable_and_an_empty_set_is_refused(layer: nn.Module):
    with pytest.raises(ValueError, match=f"{type(layer).__name__} has no prunable weights"):
        PrunableSet(layer)


def test_mixed_network_leaves_normalisation_embeddings_and_own_parameters_out():
    prunable = PrunableSet(Mixed())
    assert prunable.names == ["stem.0.weight", "head.weight"]
    assert prunable.shapes == [(4, 3, 3, 3), (2, 4)]
    assert prunable.sizes == [108, 8]
    assert prunable.dimension == 116


def test_tied_weights_count_once_under_the_first_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    prunable = PrunableSet(model)
    assert prunable.names == ["0.weight", "3.weight"]
    assert prunable.dimension == 32


def test_module_used_twice_counts_once():
    layer = nn.Linear(3, 3)
    assert PrunableSet(nn.Sequential(layer, nn.ReLU(), layer)).dimension == 9


@pytest.mark.parametrize("embedding_first", [True, False])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_output_layer_tied_to_an_embedding_is_the_embedding(embedding_first: bool, kind: type):
    embedding, middle, head = kind(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
    head.weight = embedding.weight
    modules = {"embedding": embedding, "middle": middle, "head": head}
    if not embedding_first:
        modules = dict(reversed(modules.items()))
    prunable = PrunableSet(nn.ModuleDict(modules))
    assert prunable.names == ["middle.weight"]
    assert prunable.dimension == 16


def test_frozen_weights_belong_to_the_set():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert PrunableSet(model).names == ["0.weight", "1.weight"]


# --- order ------------------------------------------------------------------------------------------------------


def test_order_is_that_of_named_modules_and_row_major_within():
    model = distinct(nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(3, 2)))
    expected = torch.cat([model[0].weight.reshape(-1), model[3].weight.reshape(-1)]).detach()
    flat = PrunableSet(model).flatten()
    torch.testing.assert_close(flat, expected, rtol=0, atol=0)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17, 18, 19]


def test_order_does_not_depend_on_the_memory_format():
    model = distinct(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)))
    before = PrunableSet(model).flatten()
    prunable = PrunableSet(model.to(memory_format=torch.channels_last))
    assert not model[0].weight.is_contiguous()
    torch.testing.assert_close(prunable.flatten(), before, rtol=0, atol=0)
    prunable.assign(2 * before)
    torch.testing.assert_close(prunable.flatten(), 2 * before, rtol=0, atol=0)


# --- the flat vector --------------------------------------------------------------------------------------------


def test_flatten_unflatten_assign_round_trip():
    model = Mixed()
    prunable = PrunableSet(model)
    vector = torch.randn(prunable.dimension, generator=torch.Generator().manual_seed(1))
    parts = prunable.unflatten(vector)
    assert [part.shape for part in parts] == [weight.shape for weight in prunable.parameters]
    torch.testing.assert_close(prunable.flatten(parts), vector, rtol=0, atol=0)
    prunable.assign(vector)
    torch.testing.assert_close(prunable.flatten(), vector, rtol=0, atol=0)
    torch.testing.assert_close(model.head.weight.detach(), vector[108:].reshape(2, 4), rtol=0, atol=0)


def test_assign_writes_in_place_and_touches_nothing_else():
    model = Mixed()
    prunable = PrunableSet(model)
    weights = {id(parameter) for parameter in prunable.parameters}
    others = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in weights}
    pointers = [parameter.data_ptr() for parameter in prunable.parameters]
    prunable.assign(torch.zeros(prunable.dimension))
    assert [parameter.data_ptr() for parameter in prunable.parameters] == pointers
    assert all(parameter.requires_grad for parameter in prunable.parameters)
    assert all(not parameter.any() for parameter in prunable.parameters)
    now = dict(model.named_parameters())
    assert len(others) == 8
    assert all(torch.equal(now[name], before) for name, before in others.items())


def test_flatten_copies_and_unflatten_views():
    prunable = PrunableSet(nn.Linear(2, 3))
    flat = prunable.flatten()
    assert not flat.requires_grad
    flat.zero_()
    assert prunable.parameters[0].abs().sum() > 0
    prunable.unflatten(flat)[0].fill_(5.0)
    assert flat.tolist() == [5.0] * 6


def test_unflatten_takes_a_column_of_a_block():
    prunable = PrunableSet(Mixed())
    block = torch.arange(3.0 * prunable.dimension).reshape(prunable.dimension, 3)
    torch.testing.assert_close(prunable.flatten(prunable.unflatten(block[:, 1])), block[:, 1], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["unflatten", "assign"])
@pytest.mark.parametrize("shape", [(115,), (117,), (116, 1), (1, 116), (0,), ()])
def test_wrong_sizes_are_refused_naming_both(method: str, shape: tuple[int, ...]):
    prunable = PrunableSet(Mixed())
    before = prunable.flatten()
    with pytest.raises(ValueError, match=r"\(116,\)") as error:
        getattr(prunable, method)(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)
    torch.testing.assert_close(prunable.flatten(), before, rtol=0, atol=0)


def test_dtype_follows_the_network():
    assert PrunableSet(nn.Linear(2, 2).double()).flatten().dtype == torch.float64


def test_the_signature_tells_names_and_shapes():
    networks = [
        Mixed(),
        nn.Sequential(nn.Linear(2, 3)),
        nn.Sequential(nn.Linear(3, 2)),
        nn.Sequential(nn.Identity(), nn.Linear(2, 3)),
        nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)),
    ]
    assert len({PrunableSet(network).signature for network in networks}) == len(networks)
    assert PrunableSet(Mixed()).signature == PrunableSet(Mixed()).signature


def test_parameters_in_one_place_of_memory_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(model[0].weight.data)
    with pytest.raises(ValueError, match="0.weight and 2.weight are two parameters in one place of memory"):
        gwprune.prune(model, 0.5)
    model[2].weight = model[0].weight  # tied, they are one
    assert gwprune.prune(model, 0.5).dimension == 32
    model[1].weight = nn.Parameter(torch.ones(1, 4).expand(4, 4))
    with pytest.raises(ValueError, match="1.weight is expanded"):
        gwprune.prune(model, 0.5)
    both = torch.randn(4, 8)  # parts of one tensor beside each other and between each other
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4))
    for layer, part in zip(model, (both[0].view(2, 4), both[1].view(2, 4), both[:, :4], both[:, 4:]), strict=True):
        layer.weight = nn.Parameter(part)
    PrunableSet(model, ["0.weight", "1.weight"]).check_values()
    PrunableSet(model, ["2.weight", "3.weight"]).check_values()
