"""The light declarations of networks, pruning methods and data sets agree with the functions, and stay light."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from gwprune import datasets, models, pruning
from gwprune.curvature.operator import OPERATORS
from gwprune.datasets.preparation import prepare
from gwprune.names import function_of
from gwprune.options import defaults

ROOT = Path(__file__).resolve().parents[2]


def signature(function) -> dict:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def plain(options: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


@pytest.mark.parametrize("name", models.names())
def test_a_network_is_declared_as_its_function_is(name):
    declared = models.NETWORKS[name]
    given = signature(function_of("network", f"gwprune.models.{declared.module}:{name}"))
    assert list(given)[:2] == ["input_shape", "classes"]
    assert plain(dict(list(given.items())[2:])) == defaults(declared.options)
    models.validate(name, defaults(declared.options))


@pytest.mark.parametrize("name", pruning.names())
def test_a_pruning_method_is_declared_as_its_function_is(name):
    method = pruning.METHODS[name]
    first = ["target", "epochs"] if method.when == "iterative" else ["subject", "sparsity"]
    first = first if method.when == "iterative" or method.depends_on_sparsity else first[:1]
    given = signature(method.function)
    assert list(given)[: len(first)] == first
    assert {key: value for key, value in given.items() if key not in first} == defaults(method.options)
    method.check_options(defaults(method.options))


def test_the_operators_of_an_option_are_those_that_there_are():
    for operator in OPERATORS:
        pruning.METHODS["obd"].check_options({"operator": operator})


@pytest.mark.parametrize("name", datasets.names())
def test_options_of_a_data_set_are_what_prepare_takes(name):
    spec = datasets.DATASETS[name]
    taken = {key: value for key, value in signature(prepare).items() if key not in ("name", "data_dir")}
    assert set(spec.options.model_fields) == set(taken) - (set() if name == "image_folder" else {"path"})
    assert all(taken[key] == value for key, value in defaults(spec.options).items())
    assert callable(spec.load)


# pyarrow and numpy are not needed for planning either; the rest takes most of a second each.
_HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "pandas", "numpy", "pyarrow")


def test_configurations_are_read_without_heavy_libraries():
    code = f"""
import sys
from gwprune import config
loaded = config.load_file({str(ROOT / "config" / "fashion_mnist_comparison.yaml")!r})
for run in config.expand(loaded).values():
    for name in run.iterative_methods():
        run.nodes(name)
config.load_file({str(ROOT / "config" / "config.yaml")!r})
assert not set(sys.modules) & set({_HEAVY!r}), set(sys.modules) & set({_HEAVY!r})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
