"""Networks from outside gwprune: ``torchvision:NAME`` and ``module:function``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from .checks import Shape, unknown

__all__ = ["Source", "source"]


class Source(Protocol):
    """Where the networks of one prefixed form come from."""

    def options(self, name: str) -> dict[str, Any]: ...
    def validate(self, name: str, options: Mapping[str, Any]) -> None: ...
    def build(self, name: str, input_shape: Shape, classes: int, options: Mapping[str, Any]) -> nn.Module: ...


class TorchvisionSource:
    """``torchvision:NAME``: any classification network of torchvision.models.

    Option ``weights``: null, or the name of pretrained weights such as ``"DEFAULT"`` or ``"IMAGENET1K_V1"``
    (downloaded by torchvision). If those were trained for another number of classes, the last layer is
    replaced by a new one with PyTorch's default initialisation. In-place activations are made out-of-place.
    """

    def options(self, name: str) -> dict[str, Any]:
        return {"weights": None}

    def validate(self, name: str, options: Mapping[str, Any]) -> None:
        models, network = _torchvision(name), name.partition(":")[2]
        allowed = models.list_models(module=models)
        if network not in allowed:
            raise unknown("torchvision network", network, allowed)
        for option in options:
            if option not in self.options(name):
                raise unknown(f"option of network {name!r}:", option, self.options(name))
        weights = options.get("weights")
        known = list(models.get_model_weights(network).__members__)
        if weights is not None and weights not in known:
            raise unknown(f"weights of network {name!r}:", weights, known)

    def build(self, name: str, input_shape: Shape, classes: int, options: Mapping[str, Any]) -> nn.Module:
        models, network = _torchvision(name), name.partition(":")[2]
        channels, height, width = input_shape
        if channels != 3:
            raise ValueError(f"network {name!r}: takes 3 channels, got input shape {input_shape}")
        weights = options.get("weights")
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


class UserSource:
    """``module:function``: function or class that takes ``input_shape=``, ``classes=`` and the options."""

    def options(self, name: str) -> dict[str, Any]:
        return _keywords(_resolve(name))

    def validate(self, name: str, options: Mapping[str, Any]) -> None:
        function = _resolve(name)
        try:
            signature = inspect.signature(function)
        except ValueError:
            return  # some compiled callables have no signature; the call itself then tells
        parameters = signature.parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            allowed = _keywords(function)
            for option in options:
                if option not in allowed:
                    raise unknown(f"option of network {name!r}:", option, allowed)
        try:
            signature.bind(input_shape=(1, 1, 1), classes=1, **options)
        except TypeError as error:
            raise ValueError(
                f"network {name!r}: cannot be called with input_shape, classes and "
                f"options {sorted(options)}: {error} (its signature is {signature})"
            ) from error

    def build(self, name: str, input_shape: Shape, classes: int, options: Mapping[str, Any]) -> nn.Module:
        try:
            model = _resolve(name)(input_shape=input_shape, classes=classes, **options)
        except Exception as error:
            error.add_note(f"while building the network {name!r} for input shape {input_shape}")
            raise
        if not isinstance(model, nn.Module):
            raise TypeError(f"network {name!r}: returned {type(model).__name__}, not a torch.nn.Module")
        _check_output(name, model, input_shape, classes)
        return model


def source(name: str) -> Source | None:
    """The source of a prefixed name; None for a plain (registered) name."""
    if not isinstance(name, str):
        raise ValueError(f"the name of a network must be a string, got {name!r}")
    prefix, colon, _ = name.partition(":")
    if not colon:
        return None
    return TorchvisionSource() if prefix == "torchvision" else UserSource()


def _torchvision(name: str) -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ValueError(f"network {name!r}: torchvision cannot be imported: {error}") from error


def _resolve(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"network {name!r}: expected the form module:function")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise ValueError(
            f"network {name!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "install it, or add its directory to PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"function of module {module_name!r}:", attribute, sorted(public))
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"network {name!r}: {attribute!r} is not callable")
    return function


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return {}
    return {
        p.name: p.default
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in ("input_shape", "classes")
    }


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
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(inputs)
    except Exception as error:
        raise ValueError(f"network {name!r}: cannot take inputs of shape {input_shape}: {error}") from error
    finally:
        for module, training in modes:
            module.training = training
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != (2, classes):
        raise ValueError(f"network {name!r}: a batch of 2 must give logits of shape (2, {classes}), got {got}")
