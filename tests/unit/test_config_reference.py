"""Generated texts: the schema and the reference of the configuration say what the loader does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from gwprune import config
from gwprune.__main__ import main
from gwprune.config.models import Config, Strict
from gwprune.config.reference import key_reference, schema_text, update

from .helpers_config import SCALARS, faults, nested, values

ROOT = Path(__file__).resolve().parents[2]
CONFIG_FILES = sorted((ROOT / "config").glob("**/*.yaml"))

# --- the files of this checkout -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> dict:
    found = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_there_are_configurations_to_check():
    assert ROOT / "config/config.yaml" in CONFIG_FILES


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_configuration_of_the_checkout_loads_expands_and_follows_the_schema(path, schema):
    assert config.expand(config.load_file(path))
    jsonschema.validate(yaml.safe_load(path.read_text()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "raw",
    [
        values(trainin={}),
        values(training={"epoch": 3}),
        values({"nam": "x"}),
        values(training={"epochs": 0}),
        values(training={"schedule": "cosin"}),
        values(pruning={"sparsities": [1.0]}),
        values(spectrum={"operators": ["hesian"]}),
        values(seeds=[]),
        {"experiments": []},
        {"experiments": [{"dataset": "digits"}]},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(raw, schema):
    faults(raw)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(("path", "value"), SCALARS.items())
def test_the_schema_accepts_a_scalar_where_the_loader_does(path, value, schema):
    raw = values(**nested(path, value))
    assert config.load(raw)
    jsonschema.validate(raw, schema, jsonschema.Draft202012Validator)


def test_the_schema_accepts_names_with_and_without_options(schema):
    full = values({"dataset": {"name": "digits", "options": {"train_limit": 9}}, "network": {"name": "fc"}})
    for raw in (values(), full):
        jsonschema.validate(raw, schema, jsonschema.Draft202012Validator)


# --- generated texts ----------------------------------------------------------------------------------------

MARKS = "<!-- generated: begin -->\nold\n<!-- generated: end -->"


@pytest.fixture
def checkout(tmp_path) -> Path:
    for name in ("config", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}\n\nby hand above\n\n{MARKS}\n\nby hand below\n")
    (tmp_path / "workflow/schemas").mkdir(parents=True)
    return tmp_path


def generated_files(root: Path) -> list[Path]:
    return [root / "workflow/schemas/config.schema.json", root / "config/README.md", root / "results/README.md"]


def test_update_writes_every_generated_text_and_keeps_what_stands_around_it(checkout):
    before = {path: path.read_bytes() for path in checkout.glob("**/*") if path.is_file()}
    assert sorted(update(checkout, check=True)) == sorted(generated_files(checkout))
    assert {path: path.read_bytes() for path in checkout.glob("**/*") if path.is_file()} == before
    assert sorted(update(checkout)) == sorted(generated_files(checkout))
    schema_file, *readmes = generated_files(checkout)
    assert schema_file.read_text() == schema_text()
    for path, generated in zip(readmes, (key_reference(), "### `tables/sweep.parquet`"), strict=True):
        text = path.read_text()
        assert text.startswith(f"# {path.parent.name}\n\nby hand above\n\n<!-- generated: begin -->")
        assert text.endswith("<!-- generated: end -->\n\nby hand below\n")
        assert generated in text
        assert "\nold\n" not in text
        path.write_text(text.replace("by hand above", "something else"))
    assert update(checkout) == []


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (0, '"minimum": 1', '"minimum": 2'),
        (1, "learning rate of the first step", "learning rate of the last step"),
        (2, "prunable weights left", "prunable weights right"),
    ],
)
def test_check_names_the_file_whose_generated_text_was_altered(checkout, number, old, new):
    update(checkout)
    assert update(checkout, check=True) == []
    path = generated_files(checkout)[number]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert update(checkout, check=True) == [path]
    assert new in path.read_text()
    assert update(checkout) == [path]
    assert path.read_text() == text


def test_a_file_without_marks_is_named(checkout):
    path = checkout / "results/README.md"
    path.write_text("# no marks\n")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        update(checkout)


def test_the_command_line_fails_on_a_drift_and_names_the_file(checkout, capsys):
    arguments = ["config-docs", "--root", str(checkout)]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    capsys.readouterr()
    path = generated_files(checkout)[0]
    path.write_text("{}")
    assert main([*arguments, "--check"]) == 1
    assert capsys.readouterr().out.startswith(f"{path} is out of date")


def test_the_reference_describes_every_key():
    text = key_reference()
    sections = [type(field.default) for field in Config.model_fields.values() if isinstance(field.default, Strict)]
    assert len(sections) == 7
    for section in sections:
        for key, field in section.model_fields.items():
            assert f"| `{key}` | " in text
            assert field.description
            assert field.description in text
    for key in ("experiments", "seeds", "device", "results", "data_dir", "name", "dataset", "network", "options"):
        assert f"| `{key}` | " in text
