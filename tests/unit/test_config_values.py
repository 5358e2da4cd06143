"""What a configuration may hold, in every form, and sections of experiments laid over the top-level ones."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwprune import config
from gwprune.config.models import SECTIONS, Config, deep_merge
from gwprune.spectral.predictors import PREDICTORS

from .helpers_config import SCALARS, nested, values


@pytest.mark.parametrize(("path", "value"), SCALARS.items())
def test_a_scalar_stands_for_a_list_of_one(path, value):
    alone = config.load(values(**nested(path, value)))
    assert alone == config.load(values(**nested(path, [value])))
    found = alone
    for key in path.split("."):
        found = getattr(found, key)
    assert found == [value]


def test_a_name_alone_stands_for_a_mapping_without_options():
    assert config.load(values()) == config.load(values({"dataset": {"name": "digits"}, "network": {"name": "fc"}}))


def test_epsilon_rules_have_one_form_however_they_are_written():
    written = ["batch_std", "relative: 0.1", {"absolute": 0.05}, "absolute:2", {"relative": "3e-2"}]
    assert config.load(values(epsilon=written)).epsilon == [
        "batch_std",
        "relative:0.1",
        "absolute:0.05",
        "absolute:2",
        "relative:0.03",
    ]


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_an_epsilon_rule_keeps_its_number(amount):
    (rule,) = config.load(values(epsilon={"absolute": amount})).epsilon
    assert float(rule.partition(":")[2]) == amount


def test_predictors_are_all_or_some_and_the_statistical_dimension_can_be_switched_off():
    common = [name for name, predictor in PREDICTORS.items() if predictor.default]
    assert config.load(values()).spectrum.predictors == common
    assert set(PREDICTORS) - set(common) == {"surgeon", "surgeon_step"}
    asked = config.load(values(spectrum={"predictors": list(PREDICTORS)})).spectrum.predictors
    assert asked == list(PREDICTORS)
    some = {"predictors": ["quadratic", "statistical_dimension"]}
    assert config.load(values(spectrum=some)).experiments[0].spectrum.predictors == some["predictors"]
    without = config.load(values(spectrum={"statistical_dimension": False})).spectrum.predictors
    assert without == [name for name in common if name != "statistical_dimension"]


def test_sparsities_are_sorted():
    loaded = config.load(values(pruning={"sparsities": [0.9, 0.1, 0.5]}))
    assert loaded.pruning.sparsities == [0.1, 0.5, 0.9]


def test_fine_tuning_can_be_switched_off_for_any_pruning_methods():
    loaded = config.load(values(pruning={"methods": "random"}, fine_tuning={"methods": []}))
    assert loaded.experiments[0].fine_tuning.methods == []


# --- sections of experiments over the top-level ones ----------------------------------------------------------


def test_an_experiments_section_is_laid_over_the_top_level_one_key_by_key():
    loaded = config.load(
        {
            "experiments": [
                {"dataset": "digits", "network": "fc", "training": {"lr": 0.5, "l1": [1e-3]}},
                {
                    "dataset": "digits",
                    "network": "cnn",
                    "pruning": {"methods": ["random"]},
                    "fine_tuning": {"methods": []},
                },
            ],
            "training": {"lr": 0.25, "epochs": 7, "l1": [1e-5, 1e-6]},
            "pruning": {"methods": ["magnitude"], "sparsities": [0.25]},
            "epsilon": ["relative: 0.5"],
        }
    )
    first, second = loaded.experiments
    assert (first.training.lr, first.training.epochs, first.training.l1) == (0.5, 7, [1e-3])
    assert (second.training.lr, second.training.epochs, second.training.l1) == (0.25, 7, [1e-5, 1e-6])
    assert first.pruning.methods == ["magnitude"]
    assert (second.pruning.methods, second.pruning.sparsities) == (["random"], [0.25])
    assert first.epsilon == second.epsilon == ["relative:0.5"]
    assert loaded.training.lr == 0.25
    assert first.training.batch_size == Config.model_fields["training"].default.batch_size


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in ("epsilon", "seeds")])
def test_a_section_that_stands_only_at_the_top_reaches_every_experiment(section):
    changed = {
        "training": {"epochs": 3},
        "spectrum": {"steps": 9},
        "pruning": {"resolution": 0.25},
        "fine_tuning": {"lr": 0.125},
        "sparse_training": {"methods": ["snip"]},
        "criteria": {"accuracy_drop": [7.0]},
    }[section]
    loaded = config.load(values(**{section: changed}))
    assert getattr(loaded.experiments[0], section) == getattr(loaded, section)
    for key, value in changed.items():
        assert getattr(getattr(loaded.experiments[0], section), key) == value


def test_an_experiments_epsilon_replaces_the_top_level_one_in_every_form():
    listed = values({"epsilon": [{"relative": 0.1}]}, epsilon=[{"absolute": 0.05}])
    alone = values({"epsilon": {"relative": 0.1}}, epsilon={"absolute": 0.05})
    assert config.load(listed).experiments[0].epsilon == ["relative:0.1"]
    assert config.load(alone).experiments[0].epsilon == ["relative:0.1"]


def test_an_experiments_seeds_replace_the_top_level_ones():
    raw = values({"name": "few", "seeds": 7}, seeds=[0, 1])
    raw["experiments"].append({**raw["experiments"][0], "name": "all"})
    del raw["experiments"][1]["seeds"]
    assert [experiment.seeds for experiment in config.load(raw).experiments] == [[7], [0, 1]]


def test_loading_leaves_the_given_mapping_as_it_was():
    raw = values({"training": {"lr": 0.5}}, training={"epochs": 3}, pruning={"sparsities": [0.9, 0.1]})
    before = json.dumps(raw)
    config.load(raw)
    assert json.dumps(raw) == before


def test_deep_merge_replaces_what_is_no_mapping():
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 3, "c": {"z": 1}}
    above = {"a": {"y": [3]}, "b": {"w": 4}, "c": 5, "d": 6}
    assert deep_merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": {"w": 4}, "c": 5, "d": 6}


@pytest.mark.parametrize("value", [0.123456, 0.999999, 0.000001, 0.29, 0.0])
def test_a_sparsity_of_six_decimals_is_kept_as_written(value):
    assert config.load(values(pruning={"sparsities": value})).pruning.sparsities == [value]


def test_the_home_directory_may_be_written_short():
    assert config.load(values(results="~/x")).results == os.path.expanduser("~/x")
    assert config.load(values(results="a~b/~c")).results == "a~b/~c"
