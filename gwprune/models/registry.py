"""The registry of networks: names, options, early validation and building."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from torch import nn

from . import external
from .checks import Choice, Shape, unknown

__all__ = ["NETWORKS", "build", "names", "network_options", "register", "validate"]

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

NETWORKS: dict[str, Callable[..., nn.Module]] = {}
"""Built-in networks: name -> function of (input_shape, classes, **options)."""


def register(builder: Builder) -> Builder:
    """Decorator: add a network under the name of its function.

    The function takes ``(input_shape, classes)`` and then options with defaults, each annotated with a type
    of `gwprune.models.checks` (from which `validate` knows the allowed values).

    Raises:
        ValueError: if the name is taken.
    """
    name = builder.__name__
    if name in NETWORKS:
        raise ValueError(f"network {name!r} is registered twice")
    NETWORKS[name] = builder
    return builder


def names() -> list[str]:
    """The built-in networks, sorted (without the forms ``torchvision:NAME`` and ``module:function``)."""
    return sorted(NETWORKS)


def network_options(name: str) -> dict[str, Any]:
    """The options of a network and their defaults, read from its signature, beyond input_shape and classes.

    An option without a default (only a ``module:function`` can have one) is `inspect.Parameter.empty` here.

    Raises:
        ValueError: for an unknown network, or a ``module:function`` that cannot be imported.
    """
    source = external.source(name)
    if source is not None:
        return source.options(name)
    parameters = list(inspect.signature(_builder(name)).parameters.values())[2:]
    # Lists, since defaults end up in YAML and JSON, which have no tuples.
    return {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}


def validate(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Check a network's name and options without building it.

    Raises:
        ValueError: for an unknown network, an unknown option or a value the option does not accept; the text
            names the value, what is allowed and the nearest match.
    """
    options = options or {}
    source = external.source(name)
    if source is not None:
        source.validate(name, options)
        return
    hints = get_type_hints(_builder(name), include_extras=True)
    allowed = network_options(name)
    for option, value in options.items():
        if option not in allowed:
            raise unknown(f"option of network {name!r}:", option, allowed)
        rule = hints[option].__metadata__[0]
        if isinstance(rule, Choice):
            if value not in rule.allowed:
                raise unknown(f"value of option {option!r} of network {name!r}:", value, rule.allowed)
        elif not rule.holds(value):
            raise ValueError(f"network {name!r}, option {option!r}: expected {rule.expects}, got {value!r}")


def build(name: str, input_shape: Shape | Sequence[int], classes: int, **options: Any) -> nn.Module:
    """Build a network that maps inputs (N, C, H, W) to logits (N, classes).

    Weights are drawn from torch's global generator: call `torch.manual_seed` before for a repeatable network.

    Args:
        name: one of `names()`; ``torchvision:NAME`` (a classification network of torchvision.models, option
            ``weights``); or ``module:function``, called with ``input_shape=``, ``classes=`` and the options.
        input_shape: (C, H, W) of one input.
        classes: number of logits.
        **options: see `network_options`.

    Raises:
        ValueError: as `validate`; for a malformed or too small ``input_shape``; for ``classes < 1``.
        TypeError: if a ``module:function`` does not return an ``nn.Module``.
    """
    validate(name, options)
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(f"network {name!r}: input_shape must be (channels, height, width), got {input_shape!r}")
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"network {name!r}: classes must be a whole number of at least 1, got {classes!r}")
    source = external.source(name)
    if source is not None:
        return source.build(name, shape, classes, options)
    return NETWORKS[name](shape, classes, **options)


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in NETWORKS:
        raise unknown("network", name, [*names(), "torchvision:NAME", "module:function"])
    return NETWORKS[name]
