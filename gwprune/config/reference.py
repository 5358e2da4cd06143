"""Generated texts: the configuration's JSON schema and key reference, and the reference of the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from ..storage.files import atomic_path
from ..tables.schemas import documentation
from .models import SECTIONS, Config, Dataset, Experiment, JobResources, Network, Strict

__all__ = ["key_reference", "schema_text", "update"]

_LISTS_ONLY = ("experiments", "milestones")
_BEGIN, _END = "<!-- generated: begin -->", "<!-- generated: end -->"


def schema_text() -> str:
    """JSON schema of a configuration file, for editors and validators."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "gwprune configuration"
    # What pydantic wraps or reads in a short form, a file may hold too.
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            if name not in _LISTS_ONLY:
                _accept_scalar(field)
    for name in ("Dataset", "Network"):
        schema["$defs"][name] = {"anyOf": [{"type": "string"}, schema["$defs"][name]]}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _accept_scalar(field: dict[str, Any]) -> None:
    if field.get("type") == "array":
        items = field.pop("items")
        least = {"minItems": field.pop("minItems")} if "minItems" in field else {}
        field.pop("type")
        field["anyOf"] = [{"type": "array", "items": items, **least}, items]


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["anyOf"]))
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[-1]
    return field.get("type", "any")


def _rows(model: type[Strict], names: list[str] | None = None) -> list[str]:
    properties = model.model_json_schema()["properties"]
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if names is not None and name not in names:
            continue
        default = "required" if field.default is PydanticUndefined else f"`{json.dumps(field.default)}`"
        lines.append(f"| `{name}` | {_type(properties[name])} | {default} | {field.description} |")
    return lines


def key_reference() -> str:
    """Markdown reference of every key, section by section."""
    top = [name for name in Config.model_fields if name not in (*SECTIONS, "resources")]
    lines = ["## Top level", "", *_rows(Config, top), ""]
    for name in SECTIONS:
        field = Config.model_fields[name]
        lines += [f"## `{name}`", ""]
        if isinstance(field.default, Strict):
            lines += [type(field.default).__doc__ or "", "", *_rows(type(field.default)), ""]
        else:
            lines += _rows(Config, [name]) + [""]
    own = [name for name in Experiment.model_fields if name not in SECTIONS]
    lines += [
        "## Each of `experiments`",
        "",
        "Any of the sections above may stand here too and is laid over the top-level one.",
        "",
    ]
    lines += [*_rows(Experiment, own), ""]
    for name, model in (("dataset", Dataset), ("network", Network)):
        lines += [f"### `{name}`", "", *_rows(model), ""]
    resources = Config.model_fields["resources"].default
    lines += ["## `resources`", "", "Memory and run time are multiplied by the number of the attempt.", ""]
    lines += ["| key | for | `threads` | `mem_mb` | `runtime` |", "| --- | --- | --- | --- | --- |"]
    for name, field in type(resources).model_fields.items():
        job: JobResources = getattr(resources, name)
        lines.append(f"| `{name}` | {field.description} | {job.threads} | {job.mem_mb} | {job.runtime} |")
    return "\n".join([*lines, "", *_rows(JobResources), ""])


def _between(text: str, generated: str, path: Path) -> str:
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{path} has no lines '{_BEGIN}' and '{_END}'")
    head, tail = text.split(_BEGIN)[0], text.split(_END)[1]
    return f"{head}{_BEGIN}\n\n{generated}\n{_END}{tail}"


def update(root: Path, check: bool = False) -> list[Path]:
    """Write the generated texts of a checkout; returns the files that changed (with ``check``: that would)."""
    texts = {root / "workflow/schemas/config.schema.json": schema_text()}
    for name, generated in (("config/README.md", key_reference()), ("results/README.md", documentation())):
        path = root / name
        texts[path] = _between(path.read_text(), generated, path)
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in changed:
            with atomic_path(path) as temporary:
                temporary.write_text(texts[path])
    return changed
