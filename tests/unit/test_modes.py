"""A network is left as it was: modes, gradient flags, buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
