"""Options of networks, pruning methods and data sets, as pydantic models that do not import what they belong to."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from .names import nearest, refusal

__all__ = ["Count", "Counts", "Options", "Positive", "check", "defaults", "listing", "options", "options_of", "wording"]

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], BeforeValidator(lambda value: list(value) if isinstance(value, tuple) else value)]
Positive = Annotated[float, Field(gt=0)]


class Options(BaseModel):
    """Base of all models of options: unknown names, numbers in quotes and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class AnyOptions(Options):
    """Options of a function that takes any."""

    model_config = ConfigDict(extra="allow")


def options(**fields: tuple[Any, Any]) -> type[Options]:
    """A model of options.

    Args:
        **fields: name -> (type, default); ``...`` as the default makes an option that must be given.
    """
    definitions: dict[str, Any] = fields
    return create_model("Options", __base__=Options, **definitions)


def options_of(owner: str, function: Callable[..., Any], *given: str, **named: Any) -> type[Options]:
    """The options of a user's function, from its signature: all parameters that are not given otherwise.

    Args:
        owner: what the function is, for error messages, e.g. ``"network 'mypkg:net'"``.
        function: any callable; numbers, truth values and texts are checked if it is annotated with them.
        *given: names of what it is called with by position.
        **named: what it is called with by name.

    Raises:
        ValueError: when it cannot be called with ``given`` and ``named``.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some compiled callables have no signature; the call itself then tells
        return AnyOptions
    try:
        bound = signature.bind_partial(*given, **named).arguments
    except TypeError as error:
        names = ", ".join([*given, *named])
        raise ValueError(f"{owner} cannot be called with {names}: {error} (its signature is {signature})") from error
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation may name what cannot be imported  # noqa: BLE001
        hints = {}
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if name not in bound and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            kind = hints.get(name)
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (kind if kind in (int, float, bool, str) else Any, default)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    return create_model("Options", __base__=AnyOptions if takes_any else Options, **fields)


def defaults(model: type[Options]) -> dict[str, Any]:
    """Names and defaults of the options that need not be given."""
    return {name: field.default for name, field in model.model_fields.items() if not field.is_required()}


def listing(models: Mapping[str, type[Options]]) -> str:
    """Markdown list of the options of all that have some: ``a, b: option (default), ...; c: ...``."""
    owners: dict[str, list[str]] = {}
    for name, model in models.items():
        if model.model_fields:
            text = ", ".join(f"`{option}` ({json.dumps(value)})" for option, value in defaults(model).items())
            owners.setdefault(text, []).append(f"`{name}`")
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in owners.items())


def wording(fault: Mapping[str, Any]) -> str:
    """One fault of a pydantic ``ValidationError`` in words: what is wrong, what was given, what may have been meant."""
    text = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("value_error", "missing"):
        return text
    value, hint = fault["input"], ""
    if fault["type"] == "literal_error":
        hint = nearest("cuda" if value == "gpu" else value, re.findall(r"'(\w+)'", fault["ctx"]["expected"]))
    if fault["type"] == "model_type":
        text = "keys and values are wanted, each as 'key: value' with a blank after the colon"
    if fault["type"] == "list_type" and isinstance(value, dict):
        hint = "; begin each entry with '- '"
    if fault["type"] == "float_type" and isinstance(value, str) and re.fullmatch(r"-?\d+e-?\d+", value):
        hint = f"; YAML takes it for text: write {value.replace('e', '.0e')}"
    return f"{text}, got {value!r}{hint}"


def check(owner: str, model: type[Options], values: Mapping[str, Any]) -> None:
    """Check names and values of options.

    Args:
        owner: what they belong to, e.g. ``"network 'fc'"``.
        model: the options that there are.
        values: those that are given.

    Raises:
        ValueError: naming the owner and, of every option that is wrong, its name, its value and what is allowed.
    """
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        faults = error.errors(include_url=False)
    else:
        return
    lines = []
    for fault in faults:
        name = fault["loc"][0]
        if fault["type"] == "extra_forbidden":
            lines.append(refusal(f"option of {owner}", name, model.model_fields))
        elif fault["type"] == "missing":
            lines.append(f"{owner} needs option {name!r}")
        else:
            lines.append(f"{owner}, option {name!r}: {wording(fault)}")
    raise ValueError("; ".join(lines))
