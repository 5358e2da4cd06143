"""Networks from outside gwprune: ``torchvision:NAME`` and ``module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from ..names import choice, function_of
from ..network.modes import eval_mode
from ..options import Options, options
from .checks import Shape

__all__ = ["build_torchvision", "build_user", "torchvision_options"]


def torchvision_options(name: str) -> type[Options]:
    """The options of ``torchvision:NAME``: ``weights``, null or the name of pretrained weights, e.g. ``"DEFAULT"``.

    Args:
        name: with the prefix.

    Raises:
        ValueError: for a network that torchvision does not have, with the nearest match.
    """
    models, network = _torchvision(name), name.partition(":")[2]
    choice("torchvision network", network, models.list_models(module=models))
    known = tuple(models.get_model_weights(network).__members__)
    return options(weights=(Literal[known] | None, None))


def build_torchvision(name: str, input_shape: Shape, classes: int, given: Mapping[str, Any]) -> nn.Module:
    """Build ``torchvision:NAME``, any classification network of torchvision.models.

    If its weights (downloaded by torchvision) were trained for another number of classes, the last layer is replaced
    by a new one with PyTorch's default initialisation. In-place activations are made out-of-place.

    Args:
        name: with the prefix.
        input_shape: (3, H, W) of one input.
        classes: number of logits.
        given: options, see :func:`torchvision_options`.

    Raises:
        ValueError: when the network cannot take such inputs.
    """
    models, network = _torchvision(name), name.partition(":")[2]
    channels, height, width = input_shape
    if channels != 3:
        raise ValueError(f"network {name!r}: takes 3 channels, got input shape {input_shape}")
    weights = given.get("weights")
    arguments: dict[str, Any] = {} if weights else {"num_classes": classes}
    if network in ("googlenet", "inception_v3"):
        # Auxiliary heads would make the training output a tuple; init_weights=True silences a warning.
        arguments |= {"aux_logits": False} if weights else {"aux_logits": False, "init_weights": True}
    if weights is None and network.startswith("vit_"):
        arguments["image_size"] = height
    if network == "maxvit_t":
        arguments["input_size"] = (height, width)
    try:
        model = models.get_model(network, weights=weights, **arguments)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"network {name!r}: cannot be built for {input_shape}: {error}") from error
    if weights is not None:
        _replace_head(model, len(models.get_model_weights(network)[weights].meta["categories"]), classes)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    _check_output(name, model, input_shape, classes)
    return model


def build_user(name: str, input_shape: Shape, classes: int, given: Mapping[str, Any]) -> nn.Module:
    """Build ``module:function``: a function or class that takes ``input_shape=``, ``classes=`` and the options.

    Args:
        name: ``module:function``.
        input_shape: (C, H, W) of one input.
        classes: number of logits.
        given: options.

    Raises:
        TypeError: when the function does not return an ``nn.Module``.
        ValueError: when the network does not give logits of shape (N, classes).
    """
    try:
        model = function_of("network", name)(input_shape=input_shape, classes=classes, **given)
    except Exception as error:
        error.add_note(f"while building the network {name!r} for input shape {input_shape}")
        raise
    if not isinstance(model, nn.Module):
        raise TypeError(f"network {name!r}: returned {type(model).__name__}, not a torch.nn.Module")
    _check_output(name, model, input_shape, classes)
    return model


def _torchvision(name: str) -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ValueError(f"network {name!r}: torchvision cannot be imported: {error}") from error


def _replace_head(model: nn.Module, old: int, new: int) -> None:
    """Replace the last layer with ``old`` outputs by a fresh one with ``new``, unless they are equal."""
    if old == new:
        return
    for path, layer in reversed(list(model.named_modules())):
        parent, attribute = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        if isinstance(layer, nn.Linear) and layer.out_features == old:
            setattr(parent, attribute, nn.Linear(layer.in_features, new, bias=layer.bias is not None))
            return
        if isinstance(layer, nn.Conv2d) and layer.out_channels == old:  # SqueezeNet ends in a 1x1 convolution
            setattr(parent, attribute, nn.Conv2d(layer.in_channels, new, layer.kernel_size))
            return
    raise ValueError(f"no layer with {old} outputs found to replace for {new} classes")


def _check_output(name: str, model: nn.Module, input_shape: Shape, classes: int) -> None:
    """Run a batch of two zeros through a network, so that a wrong shape shows now and not in training."""
    like = next(model.parameters(), torch.empty(0))
    inputs = torch.zeros(2, *input_shape, device=like.device, dtype=like.dtype)
    try:
        with eval_mode(model), torch.no_grad():
            logits = model(inputs)
    except Exception as error:
        raise ValueError(f"network {name!r}: cannot take inputs of shape {input_shape}: {error}") from error
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != (2, classes):
        raise ValueError(f"network {name!r}: a batch of 2 must give logits of shape (2, {classes}), got {got}")
