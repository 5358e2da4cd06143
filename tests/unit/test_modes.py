"""A network is left as it was: modes, gradient flags, buffers."""

from __future__ import annotations

import warnings
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gwprune.curvature.operator import curvature_operator
from gwprune.network.modes import differentiable, eval_mode, undisturbed
from gwprune.network.prunable import PrunableSet


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    return model


def look(model: nn.Module) -> tuple[list[bool], list[bool], list[torch.Tensor]]:
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    return modes, flags, [buffer.clone() for buffer in model.buffers()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "context",
    [
        lambda model: eval_mode(model),
        lambda model: differentiable(model, PrunableSet(model)),
        lambda model: undisturbed(model, training=True),
        lambda model: undisturbed(model, differentiate=PrunableSet(model)),
    ],
)
def test_everything_comes_back_also_after_an_error(context, fails: bool):
    model = network()
    modes, flags, buffers = look(model)
    try:
        with context(model):
            if model.training and not torch.is_grad_enabled():
                model(torch.randn(8, 3))  # moves the running statistics
            if fails:
                raise KeyError
    except KeyError:
        pass
    after = look(model)
    assert after[:2] == (modes, flags)
    assert all(torch.equal(new, old) for new, old in zip(after[2], buffers, strict=True))


def test_what_each_mode_allows():
    model = network()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    with undisturbed(model, training=True):
        assert all(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    with torch.no_grad(), undisturbed(model, differentiate=PrunableSet(model)):
        assert torch.is_grad_enabled()
        assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
            "0.weight",
            "3.weight",
        ]


# --- CUDA, whose switches can be turned on any machine ----------------------------------------------------------

PLACES = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]


def weights(device: str, dtype: torch.dtype) -> SimpleNamespace:
    weight = SimpleNamespace(device=torch.device(device), dtype=dtype, requires_grad_=lambda flag: None)
    return SimpleNamespace(parameters=[weight])


@pytest.fixture
def switches():
    before = [place.fp32_precision for place in PLACES]
    yield
    for place, value in zip(PLACES, before, strict=True):
        place.fp32_precision = value


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_said_and_off_while_products_are_computed(switches, fails: bool):
    for place, value in zip(PLACES, ("tf32", "ieee", "tf32"), strict=True):
        place.fp32_precision = value
    message = r"TF32 is on in torch.backends.cuda.matmul, torch.backends.cudnn.rnn; curvature products switch it off"

    def compute() -> None:
        with differentiable(network(), weights("cuda", torch.float32)):
            assert [place.fp32_precision for place in PLACES] == ["ieee"] * 3
            if fails:
                raise KeyError

    with pytest.warns(UserWarning, match=message), suppress(KeyError):
        compute()
    assert [place.fp32_precision for place in PLACES] == ["tf32", "ieee", "tf32"]


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.float64)])
def test_tf32_does_not_matter_elsewhere(switches, device: str, dtype: torch.dtype):
    for place in PLACES:
        place.fp32_precision = "tf32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with differentiable(network(), weights(device, dtype)):
            assert [place.fp32_precision for place in PLACES] == ["tf32"] * 3


@pytest.mark.parametrize(("kind", "expected"), [(nn.LSTM, False), (nn.GRU, False), (nn.Linear, True)])
def test_recurrent_layers_run_without_cudnn_which_differentiates_them_once(kind: type[nn.Module], expected: bool):
    layer, seen = kind(3, 2), []
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    model = nn.Sequential(layer)
    with differentiable(model, PrunableSet(model, "*")):
        model(Tensor(4, 5, 3).zero_())
    assert seen == [expected]
    assert torch.backends.cudnn.enabled


def test_hooks_that_change_gradients_of_the_weights_do_not_change_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    data = torch.randn(8, 3), torch.randint(2, (8,))
    plain = curvature_operator(model, nn.functional.cross_entropy, data)
    vector = torch.randn(plain.shape[0])
    expected = plain @ vector, plain.gradient()
    for layer in (model[0], model[2]):  # as training with a mask has them
        layer.weight.register_hook(lambda gradient: gradient * 0)
    hooked = curvature_operator(model, nn.functional.cross_entropy, data)
    assert torch.equal(hooked @ vector, expected[0])
    assert torch.equal(hooked.gradient(), expected[1])
    model(data[0]).sum().backward()
    assert not model[0].weight.grad.any()
    assert not model[2].weight.grad.any()
