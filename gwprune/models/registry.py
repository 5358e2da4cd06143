"""The registry of networks: names and options, without an import of torch, and building."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from .. import options
from ..names import choice, function_of
from ..options import Count, Counts, Options, Positive

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "Network", "build", "names", "validate"]


@dataclass(frozen=True)
class Network:
    """A built-in network.

    Attributes:
        module: module of this package with a function of the network's name, which takes (input_shape, classes) and
            the options.
        options: names, types and defaults of its options.
    """

    module: str
    options: type[Options]


def _network(module: str, **fields: tuple[Any, Any]) -> Network:
    return Network(module, options.options(**fields))


_VGG = {"batch_norm": (bool, True), "width": (Positive, 1.0)}
_RESNET = {"stem": (Literal["auto", "cifar", "imagenet"], "auto"), "width": (Positive, 1.0)}
_CIFAR_RESNET = {"shortcut": (Literal["A", "B"], "A"), "width": (Count, 16)}

NETWORKS: dict[str, Network] = {
    "alexnet": _network("alexnet", dropout=(Annotated[float, Field(ge=0, lt=1)], 0.0)),
    "cnn": _network("lenet", channels=(Counts, [16, 32]), hidden=(Count, 64)),
    "fc": _network("fc", hidden=(Counts, [300, 100]), batch_norm=(bool, False)),
    "fc12": _network("fc", batch_norm=(bool, False)),
    "fc5": _network("fc", batch_norm=(bool, False)),
    "lenet5": _network("lenet", channels=(Annotated[Counts, Field(min_length=2, max_length=2)], [16, 32])),
    "resnet18": _network("resnet", **_RESNET),
    "resnet20": _network("resnet_cifar", **_CIFAR_RESNET),
    "resnet32": _network("resnet_cifar", **_CIFAR_RESNET),
    "resnet34": _network("resnet", **_RESNET),
    "resnet50": _network("resnet", **_RESNET),
    "resnet56": _network("resnet_cifar", **_CIFAR_RESNET),
    "vgg11": _network("vgg", **_VGG),
    "vgg13": _network("vgg", **_VGG),
    "vgg16": _network("vgg", **_VGG),
    "vgg19": _network("vgg", **_VGG),
    "vit": _network("vit", patch=(Count, 4), width=(Count, 48), depth=(Count, 4), heads=(Count, 3)),
}


def names() -> list[str]:
    """The built-in networks, sorted (without the forms ``torchvision:NAME`` and ``module:function``)."""
    return sorted(NETWORKS)


def validate(name: str, given: Mapping[str, Any] | None = None) -> None:
    """Check a network's name and options without building it.

    Args:
        name: as for :func:`build`.
        given: its options.

    Raises:
        ValueError: for an unknown network, an unknown option or a value the option does not accept; the text
            names the value, what is allowed and the nearest match.
    """
    if not isinstance(name, str):
        raise ValueError(f"the name of a network must be a string, got {name!r}")
    given, owner = given or {}, f"network {name!r}"
    if name.startswith("torchvision:"):
        from .external import torchvision_options  # noqa: PLC0415 - torchvision is imported by those who name it

        known = torchvision_options(name)
    elif ":" in name:
        # Any values do: only the names of the parameters are looked at.
        known = options.options_of(owner, function_of("network", name), input_shape=(1, 1, 1), classes=1)
    else:
        known = NETWORKS[choice("network", name, [*names(), "torchvision:NAME", "module:function"])].options
    options.check(owner, known, given)


def build(name: str, input_shape: Sequence[int], classes: int, **given: Any) -> nn.Module:
    """Build a network that maps inputs (N, C, H, W) to logits (N, classes).

    Weights are drawn from torch's global generator: call `torch.manual_seed` before for a repeatable network.

    Args:
        name: one of `names()`; ``torchvision:NAME`` (a classification network of torchvision.models, option
            ``weights``); or ``module:function``, called with ``input_shape=``, ``classes=`` and the options.
        input_shape: (C, H, W) of one input.
        classes: number of logits.
        **given: the network's options.

    Raises:
        ValueError: as `validate`; for a malformed or too small ``input_shape``; for ``classes < 1``.
        TypeError: if a ``module:function`` does not return an ``nn.Module``.
    """
    validate(name, given)
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(f"network {name!r}: input_shape must be (channels, height, width), got {input_shape!r}")
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"network {name!r}: classes must be a whole number of at least 1, got {classes!r}")
    if ":" in name:
        from . import external  # noqa: PLC0415 - imports torch

        make = external.build_torchvision if name.startswith("torchvision:") else external.build_user
        return make(name, shape, classes, given)
    return function_of("network", f"{__package__}.{NETWORKS[name].module}:{name}")(shape, classes, **given)
