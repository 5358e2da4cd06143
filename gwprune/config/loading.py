"""Reading a configuration, with errors that name the key, the value and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from .models import Config
from .sections import nearest

__all__ = ["ConfigError", "load", "load_file"]


class ConfigError(Exception):
    """The configuration is not valid. The message has one line per fault."""


def load(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a mapping as the typed configuration.

    Raises:
        ConfigError: with every fault, each naming its key, the value and what is allowed.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{source} is not valid:\n" + "\n".join(_faults(error))) from None


def load_file(path: str | os.PathLike) -> Config:
    """Read and validate a YAML file.

    Raises:
        ConfigError: naming the file, when it is missing, no YAML mapping, or not valid.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a YAML mapping, found {type(values).__name__}")
    return load(values, str(path))


def _faults(error: ValidationError) -> list[str]:
    faults: dict[tuple, str] = {}
    for item in error.errors(include_url=False):
        location = item["loc"]
        # A fault in a top-level section comes back, with the same value, in every experiment that it was merged into.
        shown = "" if item["type"] == "value_error" else repr(item["input"])
        if location[:1] == ("experiments",) and (location[2:], item["msg"], shown) in faults:
            continue
        key = ".".join(str(part) for part in location) or "top level"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            allowed = list(_section(location[:-1]).model_fields)
            text = f"unknown key; allowed: {', '.join(allowed)}{nearest(location[-1], allowed)}"
        elif item["type"] not in ("value_error", "missing"):
            text += f", got {item['input']!r}"
            if item["type"] == "literal_error":
                text += nearest(item["input"], re.findall(r"'(\w+)'", item["ctx"]["expected"]))
        faults[location, item["msg"], shown] = f"  {key}: {text}"
    return list(faults.values())


def _section(location: tuple) -> type[BaseModel]:
    """The model that a key's location lies in."""

    def inner(annotation: Any) -> type[BaseModel] | None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        return next((found for part in get_args(annotation) if (found := inner(part))), None)

    section: type[BaseModel] = Config
    for part in location:
        if not isinstance(part, int):
            section = inner(section.model_fields[part].annotation) or section
    return section
