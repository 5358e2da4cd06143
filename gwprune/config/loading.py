"""Reading a configuration, with errors that name the file, the key, the value and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ..names import nearest
from ..options import wording
from .models import Config, deep_merge

__all__ = ["ConfigError", "load", "load_file", "load_for_workflow", "read_file", "unknown_key"]


class ConfigError(Exception):
    """The configuration is not valid. The message is complete: it names the file and has one line per fault."""


def load(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a mapping as the typed configuration.

    Args:
        values: the configuration.
        source: what the error message calls it.

    Raises:
        ConfigError: with every fault, each naming its key, the value and what is allowed.
    """
    return _validated(values, None, source, [])


def load_file(path: str | os.PathLike) -> Config:
    """Read and validate a YAML (or JSON) file.

    Raises:
        ConfigError: as :func:`read_file` and :func:`load`.
    """
    return _validated(read_file(path), None, str(path), [path])


def load_for_workflow(config: Mapping[str, Any], configfiles: Sequence[str | os.PathLike]) -> Config:
    """Validate the configuration that Snakemake has put together, and read its files once more, strictly.

    Snakemake takes a key that stands twice at its last value, and does not know which file a value comes from.

    Args:
        config: Snakemake's ``config``: the files and, over them, the values given by ``--config``.
        configfiles: the files, in the order in which they are laid over each other.

    Raises:
        ConfigError: naming the files; faults of values that no file holds are marked as given by ``--config``.
    """
    from_files: dict[str, Any] = {}
    errors = []
    for path in configfiles:
        try:
            from_files = deep_merge(from_files, read_file(path))
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))
    source = " and ".join(_shown(path) for path in configfiles) or "configuration"
    return _validated(_typed(config, from_files), from_files, source, configfiles)


def read_file(path: str | os.PathLike) -> dict[str, Any]:
    """Read a YAML (or JSON) file of keys, strictly.

    Raises:
        ConfigError: naming the file, and the line where there is one: when the file is missing, empty, no UTF-8, no
            YAML or no mapping, or when a key stands twice.
    """
    shown = _shown(path)
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ConfigError(f"{shown}, line {line}: byte 0x{byte:02x} is no UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{shown} cannot be read: {error.strerror}") from None
    spaced = _spaced(text)
    try:
        node = yaml.compose(spaced, yaml.SafeLoader)
        faults = list(dict.fromkeys(_faults_of_keys(node)))
        values = None if faults else yaml.safe_load(spaced)
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}{_syntax(error)}") from None
    if faults:
        raise ConfigError("\n".join(f"{shown}, line {line}: {fault}" for line, fault in faults))
    if values is None:
        raise ConfigError(f"{shown} is empty: it must hold the key experiments at least")
    if not isinstance(values, dict):
        raise ConfigError(f"{shown} must hold a mapping of keys to values, not a {type(values).__name__}")
    return values


def _spaced(text: str) -> str:
    """JSON may be indented with tabs, which stand in no text of it: as spaces they keep the lines of its keys."""
    return text.expandtabs(1) if text.lstrip().startswith("{") else text


def _shown(path: str | os.PathLike) -> str:
    """A path as a user would write it: Snakemake makes it absolute."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _syntax(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).splitlines()[0]
    if "'\\t'" in problem:
        problem += ": indent with spaces, not with tabs"
    elif "<block" in problem:
        problem = "the indentation fits none of the lines above: keys of one section begin in the same column"
    elif "mapping values" in problem:
        problem += ": a second colon in the line, or an indentation that fits none of the lines above"
    elif mark and (begun := getattr(error, "context_mark", None)) and begun.line < mark.line:
        problem += f", {error.context} that begins in line {begun.line + 1}"
    return f", line {mark.line + 1}: {problem}" if mark else f": {problem}"


def _faults_of_keys(node: yaml.Node | None, above: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of every key that stands twice in its mapping, and every alias of what it stands in."""
    if node in above:
        yield node.start_mark.line + 1, "an alias stands for the value that it is a part of"
        return
    children = []
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            children.append(value)
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    yield line, f"key {key.value!r} stands there once more, first in line {lines[key.value]}"
                lines.setdefault(key.value, line)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        yield from _faults_of_keys(child, (*above, node))


def _validated(
    values: Mapping[str, Any],
    from_files: Mapping[str, Any] | None,
    source: str,
    files: Sequence[str | os.PathLike],
) -> Config:
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        faults = _faults(error, values, from_files, files)
        raise ConfigError(f"{source} is not valid:\n" + "\n".join(faults)) from None


def _faults(
    error: ValidationError,
    values: Mapping[str, Any],
    from_files: Mapping[str, Any] | None,
    files: Sequence[str | os.PathLike],
) -> list[str]:
    nodes = [(_shown(path), yaml.compose(_spaced(Path(path).read_text("utf-8")), yaml.SafeLoader)) for path in files]
    faults: dict[tuple, str] = {}
    for item in error.errors(include_url=False):
        location = item["loc"]
        # A fault in a top-level section comes back, with the same value, in every experiment that it was merged into.
        shown = "" if item["type"] == "value_error" else repr(item["input"])
        if location[:1] == ("experiments",) and (location[2:], item["msg"], shown) in faults:
            continue
        key = ".".join(str(part) for part in location) or "top level"
        text = wording(item)
        if item["type"] == "extra_forbidden":
            text = unknown_key(str(location[-1]), item["input"], _section(location[:-1]))
        place = _place(nodes, location)
        if from_files is not None and _at(values, location) != _at(from_files, location):
            text, place = f"{text} (given by --config)", ""
        faults[location, item["msg"], shown] = f"  {place}{key}: {text}"
    return list(faults.values())


def _place(nodes: Sequence[tuple[str, yaml.Node]], location: tuple) -> str:
    """Where a key stands, or the last part of the way to it that a file has: the line, and of several files which."""
    # An experiment takes what it does not say itself from the top level.
    ways = [location, location[2:]] if location[:1] == ("experiments",) else [location]
    found = [(len(way) - depth, -number, name, line)
             for number, (name, node) in enumerate(nodes)
             for way in ways
             for depth, line in [_followed(node, way)]
             if depth]  # fmt: skip
    if not found:
        return ""
    _, _, name, line = min(found, key=lambda entry: entry[:2])
    return f"{f'{name}, ' if len(nodes) > 1 else ''}line {line}, "


def _followed(node: yaml.Node, location: tuple) -> tuple[int, int]:
    """How many parts of a key's location a file has, and the line of the last of them."""
    line = 0
    for depth, part in enumerate(location):
        inside: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                    inside, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inside = node.value[part]
            line = inside.start_mark.line + 1
        if inside is None:
            return depth, line
        node = inside
    return len(location), line


def unknown_key(key: str, value: Any, section: type[BaseModel]) -> str:
    """What an error says about a key that ``section`` does not have; ``training.epochs`` gets its proper form."""
    allowed = list(section.model_fields)
    first, _, rest = key.partition(".")
    if rest and first in allowed:
        nested = f"{{{rest.replace('.', ': {')}: {value}{'}' * (rest.count('.') + 1)}"
        return f"dots do not reach into a section; write {first}: {nested}, with --config '{first}={nested}'"
    sections = [name for name, field in section.model_fields.items() if key in _keys(field.annotation)]
    hint = f"; it belongs in {' or '.join(sections)}" if sections else nearest(key, allowed)
    if not hint and "options" in allowed:
        hint = f"; an option stands in options: {{{key}: {value}}}"
    return f"unknown key; allowed: {', '.join(allowed)}{hint}"


def _typed(values: Any, from_files: Any) -> Any:
    """``values`` with the numbers and truth values of ``--config``, which Snakemake leaves as texts in a mapping."""
    if isinstance(values, Mapping):
        below = from_files if isinstance(from_files, Mapping) else {}
        return {key: _typed(value, below.get(key)) for key, value in values.items()}
    if values == from_files or not isinstance(values, list | str):
        return values
    if isinstance(values, list):
        return [_typed(value, None) for value in values]
    parsed = yaml.safe_load(values) if re.fullmatch(r"true|false|null|-?\d[-+\d.e]*", values) else values
    return values if isinstance(parsed, dict | list) else parsed


def _at(values: Any, location: tuple) -> Any:
    """What stands at a key's location, or at the last part of the way to it that there is."""
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
    return values


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, a list of it included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part))), None)


def _keys(annotation: Any) -> Collection[str]:
    model = _model(annotation)
    return model.model_fields if model else ()


def _section(location: tuple) -> type[BaseModel]:
    """The model that a key's location lies in."""
    section: type[BaseModel] = Config
    for part in location:
        if not isinstance(part, int):
            section = _model(section.model_fields[part].annotation) or section
    return section
