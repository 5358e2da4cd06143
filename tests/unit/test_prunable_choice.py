"""What is in the prunable set and what is not is said; names, patterns and functions choose; the rest is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from gwprune.curvature.operator import curvature_operator
from gwprune.network.prunable import PrunableSet
from gwprune.predict import predict_threshold
from gwprune.pruning import mask, rank, removed_count

from .helpers_layers import Conv1D, Experts, language_model
from .helpers_networks import labels, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


def left_out(model: nn.Module, choice=None) -> dict[str, tuple[str, float]]:
    return {matrix.name: (matrix.module, matrix.share) for matrix in PrunableSet(model, choice).left_out}


def vision_transformer(blocks: int = 2) -> nn.Module:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Conv1d(3, 8, 2), nn.TransformerEncoder(block, blocks, enable_nested_tensor=False))
    model.positions = nn.Parameter(normal(1, 5, 8))
    model.scale = nn.Parameter(normal(8, 1, 1))
    return model


# --- what is left out -------------------------------------------------------------------------------------------

LEFT_OUT: dict[str, tuple[Callable, dict[str, tuple[str, float]]]] = {
    "attention": (
        lambda: nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4)),
        {"0.in_proj_weight": ("MultiheadAttention", 48 / 80)},
    ),
    "attention_in_parts": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True),
        {
            f"{part}_proj_weight": ("MultiheadAttention", 4 * size / 52)
            for part, size in {"q": 4, "k": 3, "v": 2}.items()
        },
    ),
    "vision_transformer": (
        vision_transformer,
        {
            f"1.layers.{block}.self_attn.in_proj_weight": ("MultiheadAttention", 192 / (48 + 2 * 512))
            for block in (0, 1)
        },
    ),
    "lstm": (
        lambda: nn.Sequential(nn.LSTM(1, 4), nn.Linear(4, 5)),
        {"0.weight_ih_l0": ("LSTM", 16 / 100), "0.weight_hh_l0": ("LSTM", 64 / 100)},
    ),
    "gru_cell": (
        lambda: nn.Sequential(nn.GRUCell(2, 4), nn.Linear(4, 7)),
        {"0.weight_ih": ("GRUCell", 24 / 100), "0.weight_hh": ("GRUCell", 48 / 100)},
    ),
    "conv1d_of_transformers": (
        lambda: nn.Sequential(Conv1D(6, 4), nn.Linear(6, 1)),
        {"0.weight": ("Conv1D", 24 / 30)},
    ),
    "experts": (
        lambda: Experts(2, 4, 3),
        {"up": ("Experts", 24 / 56), "down": ("Experts", 24 / 56)},
    ),
    "tied_output": (
        lambda: language_model()[0],
        {
            "head.weight": ("Linear", 28 / (28 + 48 + 16 + 24)),
            "block.self_attn.in_proj_weight": ("MultiheadAttention", 48 / (28 + 48 + 16 + 24)),
        },
    ),
    "nothing": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.LayerNorm([2, 2]), nn.Embedding(3, 2), nn.Linear(2, 1)),
        {},
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_matrices_that_are_left_out_are_listed_with_their_shares(name: str):
    make, expected = LEFT_OUT[name]
    found = left_out(make())
    assert {key: (module, pytest.approx(share)) for key, (module, share) in found.items()} == expected
    assert not left_out(make(), "*")
    assert set(PrunableSet(make(), "*").names) == {*PrunableSet(make()).names, *expected}


@pytest.mark.parametrize("call", [curvature_operator, predict_threshold])
def test_a_warning_says_what_is_left_out_of_a_vision_transformer_and_how_to_include_it(call: Callable):
    torch.manual_seed(0)
    model = nn.Sequential(vision_transformer(), nn.Flatten(), nn.Linear(40, 3)).eval()
    data = normal(12, 3, 6, dtype=torch.float32), labels(12, 3)
    model[0][0].register_forward_hook(lambda module, inputs, output: output.transpose(1, 2))
    options = {"epsilon": 0.1, "steps": 4} if call is predict_threshold else {}
    message = (
        "the prunable set holds 68% of the weights in the network's matrices; left out are"
        " 0.1.layers.*.self_attn.in_proj_weight (MultiheadAttention, 32.2%). prunable='*' takes all matrices,"
        " prunable=[...] names and patterns such as these"
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        found = call(model, F.cross_entropy, data, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = call(model, F.cross_entropy, data, **options, prunable="*")
        call(model, F.cross_entropy, data, **options, prunable=["*.out_proj.weight", "2.weight"])
    if call is predict_threshold:
        assert [matrix.weights for matrix in found.left_out] == [192, 192]
        assert every.left_out == ()
        assert (found.dimension, every.dimension) == (808, 1192)


@pytest.mark.parametrize(("hidden", "warned"), [(16, False), (17, True)])
def test_the_warning_comes_below_four_fifths(hidden: int, warned: bool):
    model = nn.Sequential(nn.Linear(8, 32), nn.ParameterList([torch.zeros(4, hidden)]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PrunableSet(model).tell_left_out()
    assert bool(caught) is warned


# --- choosing ---------------------------------------------------------------------------------------------------

IN_PROJ = ["1.layers.0.self_attn.in_proj_weight", "1.layers.1.self_attn.in_proj_weight"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("*.in_proj_weight", IN_PROJ),
        (IN_PROJ[1], IN_PROJ[1:]),
        ((IN_PROJ[1], "0.weight", "*.0.*.in_proj_*"), ["0.weight", *IN_PROJ]),
        ({"*in_proj_weight"}, IN_PROJ),
        (lambda name, weight: "attn" in name and weight.shape[0] == 24, IN_PROJ),
        ("0.*", ["0.weight"]),
        (["0.bias", "1.layers.0.norm1.weight", "positions"], ["positions", "0.bias", "1.layers.0.norm1.weight"]),
    ],
)
def test_names_patterns_and_functions_choose_in_the_order_of_the_network(choice, names: list[str]):
    model = vision_transformer()
    found = PrunableSet(model, choice)
    assert found.names == names
    assert all(model.get_parameter(name) is weight for name, weight in zip(names, found.parameters, strict=True))
    assert PrunableSet(model, found).names == names
    assert found.dimension + sum(matrix.weights for matrix in found.left_out) >= 1072


def test_a_function_is_asked_about_matrices_alone():
    asked = []
    PrunableSet(language_model()[0], lambda name, weight: asked.append((name, weight.ndim)) or True)
    assert [name for name, _ in asked] == [
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj.weight",
        "block.linear1.weight",
        "block.linear2.weight",
        "head.weight",
    ]
    assert {axes for _, axes in asked} == {2}


@pytest.mark.parametrize("name", ["head.weight", "embedding.weight"])
def test_a_tied_weight_is_chosen_once_by_any_of_its_names(name: str):
    model = language_model()[0]
    found = PrunableSet(model, [name, "block.linear1.weight"])
    assert sorted(found.names) == sorted([name, "block.linear1.weight"])
    assert found.dimension == 28 + 12
    both = PrunableSet(model, ["head.weight", "embedding.weight"])
    assert (both.names, both.dimension) == (["embedding.weight"], 28)


def test_an_embedding_of_its_own_is_taken_by_its_full_name_alone():
    model = language_model(tie=False)[0]
    assert PrunableSet(model, "embedding.weight").dimension == 28
    with pytest.raises(ValueError, match=r"'emb\*' meets no matrix of Net; it meets embedding.weight: vectors, embed"):
        PrunableSet(model, "emb*")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "*.in_proj_wieght",
            r"'\*.in_proj_wieght' meets no matrix of Sequential; nearest are 1.layers.0.self_attn.in",
        ),
        (["0.weight", "in_proj_weight"], "'in_proj_weight' meets no .*; nearest are 1.layers.0.self_attn.in_proj_wei"),
        ("*.bias", "meets no matrix of Sequential; it meets 0.bias, .* and 8 more: vectors, .* by their full names"),
        ("zzz", r"meets no matrix .*; its matrices are 0.weight, .* name some, or take all with prunable='\*'"),
        ([], "Sequential has no prunable weights: prunable chooses none; its matrices are 0.weight"),
        (lambda name, weight: False, "prunable chooses none"),
    ],
)
def test_a_choice_that_meets_nothing_is_refused_with_what_is_near(choice, message: str):
    with pytest.raises(ValueError, match=message):
        PrunableSet(vision_transformer(), choice)


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got function"):
        PrunableSet(vision_transformer)


@pytest.mark.parametrize(
    "choice", [3, 0.8, [1], nn.Linear(2, 2).weight, nn.Linear, nn.Linear(2, 2), iter(["0.weight"])]
)
def test_a_choice_of_another_kind_is_refused(choice):
    with pytest.raises(TypeError, match=r"prunable must be a parameter's name, a pattern .*, a list of these, or a f"):
        PrunableSet(vision_transformer(), choice)


def test_without_a_layer_the_matrices_are_named():
    with pytest.raises(
        ValueError,
        match="LSTM has no prunable weights: the default is the weights of nn.Linear and nn.Conv.d; its matrices are"
        " weight_ih_l0, weight_hh_l0: name some",
    ):
        PrunableSet(nn.LSTM(3, 4))


def test_weights_that_are_no_floats_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"0.weight holds torch.int8: prunable weights are real floating-point"):
        PrunableSet(model)


# --- weights that are computed ----------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).t()


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
    "old_weight_norm": nn.utils.weight_norm,
    "old_spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "prune_twice": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.5), "weight", 0.5),
}


def computed(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    COMPUTED[name](model[0])
    COMPUTED[name](model[2])
    return model.eval()


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_is_computed_is_refused_by_name_with_the_way_out(name: str):
    model = computed(name)
    model(normal(2, 4, dtype=torch.float32))
    effective = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    for choice in (None, "*", lambda name, weight: True):
        with pytest.raises(
            ValueError, match=r"^0.weight \(.*\), 2.weight \(.*\): computed from .*, and likewise the others, or choose"
        ) as error:
            PrunableSet(model, choice)
    way = re.search(r"again with (torch[^,]+, 'weight'\)), and", str(error.value))[1]
    for layer in ("0", "2"):
        eval(way.replace("'0'", f"'{layer}'"), {"model": model, "torch": torch})  # the message's own words
    found = PrunableSet(model)
    assert found.names == ["0.weight", "2.weight", "4.weight"]
    torch.testing.assert_close(found.parameters[0].detach(), effective[0])
    torch.testing.assert_close(found.parameters[1].detach(), effective[1])


def test_a_weight_that_is_a_plain_tensor_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    weight = model[0].weight.detach()
    del model[0].weight
    model[0].weight = weight
    with pytest.raises(ValueError, match=r"0.weight \(Linear\): computed .* make it an nn.Parameter or choose other"):
        PrunableSet(model)


@pytest.mark.parametrize("name", COMPUTED)
def test_others_beside_a_weight_that_is_computed_can_be_chosen(name: str):
    model, data = computed(name, torch.float64), (normal(20, 4), labels(20, 3))
    found = predict_threshold(model, F.cross_entropy, data, epsilon=0.05, steps=12, prunable="4.weight")
    assert [layer.name for layer in found.layers] == ["4.weight"]
    assert sum(matrix.weights for matrix in found.left_out) == 32
    with torch.no_grad():
        hidden = model[:4](data[0])
    alone = predict_threshold(model[4], F.cross_entropy, (hidden, data[1]), epsilon=0.05, steps=12)
    assert found.threshold == alone.threshold


# --- in the result ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, "*", ["block.*", "embedding.weight"]])
@pytest.mark.filterwarnings("ignore:the prunable set holds")
def test_the_layers_of_a_prediction_are_those_of_the_mask_at_its_threshold(choice):
    torch.manual_seed(0)
    model, tokens = language_model()
    data = (tokens.repeat(4, 1), labels(20, 7))
    found = predict_threshold(model, F.cross_entropy, data, epsilon=0.02, steps=12, prunable=choice)
    prunable = PrunableSet(model, choice)
    kept = prunable.unflatten(rank("magnitude", prunable, 0).mask(found.threshold))
    assert 0.05 < found.threshold < 1
    assert [(layer.name, layer.shape, layer.weights) for layer in found.layers] == [
        (name, tuple(weight.shape), weight.numel())
        for name, weight in zip(prunable.names, prunable.parameters, strict=True)
    ]
    assert [layer.removed for layer in found.layers] == [int((~part).sum()) for part in kept]
    assert sum(layer.removed for layer in found.layers) == removed_count(found.threshold, found.dimension)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert [layer.sparsity for layer in found.layers] == [
        pytest.approx(1 - float(part.double().mean())) for part in kept
    ]
    assert found.left_out == prunable.left_out


@pytest.mark.parametrize("method", ["taylor", "snip", "synflow", "lamp"])
def test_methods_rank_the_weights_that_were_chosen(method: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), Conv1D(4, 5), nn.Linear(4, 3))
    prunable = PrunableSet(model, ["3.weight", "4.weight"])
    given = {"model": model, "data": (normal(16, 2, 3, dtype=torch.float32), labels(16, 3))}
    kept = mask(method, prunable, 0, 0.5, **given)
    assert (kept.numel(), int(kept.sum())) == (32, 16)
