"""Configuration: errors that say key, value, what is allowed and what was meant; merging; runs; generated texts."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gwprune import config
from gwprune.__main__ import main
from gwprune.config import ConfigError
from gwprune.config.models import SECTIONS, Config, Strict, deep_merge
from gwprune.config.reference import key_reference, schema_text, update
from gwprune.config.runs import chunk_token, sparsity_token

ROOT = Path(__file__).resolve().parents[2]
CONFIG_FILES = sorted((ROOT / "config").glob("**/*.yaml"))

# Every key that takes a list or, for a list of one, the value alone.
SCALARS = {
    "training.l1": 1e-4,
    "spectrum.operators": "ggn",
    "epsilon": "batch_std",
    "pruning.methods": "magnitude",
    "pruning.sparsities": 0.5,
    "fine_tuning.methods": "magnitude",
    "fine_tuning.sparsities": 0.5,
    "criteria.accuracy_drop": 2.0,
    "seeds": 3,
}


def values(experiment: dict | None = None, **top) -> dict:
    """A small valid configuration with ``top`` keys, and ``experiment`` laid over its only experiment."""
    return {"experiments": [{"dataset": "digits", "network": "fc", **(experiment or {})}], **top}


def nested(path: str, value) -> dict:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def faults(raw: dict) -> list[str]:
    """The lines of the error, without the heading."""
    with pytest.raises(ConfigError) as caught:
        config.load(raw)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "configuration is not valid:"
    assert lines
    return [line.strip() for line in lines]


def only_fault(raw: dict) -> str:
    lines = faults(raw)
    assert len(lines) == 1, lines
    return lines[0]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key", "meant"),
    [
        (values(trainin={}), "trainin", "training"),
        (values(training={"epoch": 3}), "training.epoch", "epochs"),
        (values(resources={"train": {"thread": 2}}), "resources.train.thread", "threads"),
        (values({"networks": "fc"}), "experiments.0.networks", "network"),
        (values({"training": {"milestone": [1]}}), "experiments.0.training.milestone", "milestones"),
        (values({"dataset": {"name": "digits", "option": {}}}), "experiments.0.dataset.option", "options"),
    ],
)
def test_an_unknown_key_is_named_with_the_allowed_keys_and_the_nearest_one(raw, key, meant):
    line = only_fault(raw)
    assert line.startswith(f"{key}: unknown key; allowed: ")
    assert line.endswith(f"; did you mean {meant!r}?")
    allowed = line.removeprefix(f"{key}: unknown key; allowed: ").split(";")[0].split(", ")
    assert meant in allowed


def test_the_allowed_keys_of_an_unknown_key_are_those_of_its_own_section():
    top, inner = only_fault(values(zzz=1)), only_fault(values(spectrum={"zzz": 1}))
    assert top == f"zzz: unknown key; allowed: {', '.join(Config.model_fields)}"
    assert inner == (
        "spectrum.zzz: unknown key; allowed: operators, steps, probes, samples, batch_size, memory_mb, reorthogonalize,"
        " basis, statistical_dimension, cone_steps"
    )


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("training.epochs", "ten", "integer"),
        ("training.epochs", 2.5, "integer"),
        ("training.epochs", None, "integer"),
        ("training.epochs", 0, "greater than or equal to 1"),
        ("training.lr", "fast", "number"),
        ("training.lr", 0.0, "greater than 0"),
        ("training.momentum", 1.0, "less than 1"),
        ("training.nesterov", "perhaps", "boolean"),
        ("training.mixed_precision", "perhaps", "boolean"),
        ("training.label_smoothing", 1.0, "less than 1"),
        ("training.label_smoothing", -0.1, "greater than or equal to 0"),
        ("training.accumulation", 0, "greater than or equal to 1"),
        ("training.milestones", 3, "list"),
        ("training.l1", -1e-4, "greater than or equal to 0"),
        ("training", "long", "dictionary"),
        ("training", None, "dictionary"),
        ("spectrum.steps", 1, "greater than or equal to 2"),
        ("spectrum.operators", [], "at least 1 item"),
        ("pruning.methods", 3, "string"),
        ("pruning.resolution", 1.0, "less than 1"),
        ("criteria.accuracy_drop", 0, "greater than 0"),
        ("seeds", -1, "greater than or equal to 0"),
        ("results", 3, "string"),
        ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("experiments", {"dataset": "digits"}, "list"),
        ("experiments", [], "at least 1 item"),
    ],
)
def test_a_value_of_wrong_type_or_range_is_named_with_key_value_and_what_is_allowed(path, value, allowed):
    line = only_fault(values(**nested(path, value)))
    assert re.match(rf"{re.escape(path)}(\.0)?: ", line)
    assert allowed in line
    assert f"got {value!r}" in line


def test_a_missing_key_of_an_experiment_is_named():
    assert only_fault({"experiments": [{"dataset": "digits"}]}) == "experiments.0.network: Field required"
    assert only_fault({}) == "experiments: Field required"


@pytest.mark.parametrize("value", [1.0, -0.1, 1.5])
@pytest.mark.parametrize("section", ["pruning", "fine_tuning"])
def test_a_sparsity_outside_of_0_to_1_is_named(section, value):
    line = only_fault(values(**{section: {"sparsities": [0.5, value]}}))
    assert line == f"{section}.sparsities: sparsity {value!r} is outside [0, 1)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("section", ["pruning", "fine_tuning"])
def test_a_sparsity_that_is_not_finite_is_named(section, value):
    line = only_fault(values(**{section: {"sparsities": [0.5, value]}}))
    assert line.startswith(f"{section}.sparsities")
    assert repr(value) in line


@pytest.mark.parametrize("value", [0.1234567, 0.9999999, 0.0000001])
def test_a_sparsity_of_seven_decimals_is_named(value):
    line = only_fault(values(pruning={"sparsities": [0.5, value]}))
    assert line == f"pruning.sparsities: sparsity {value!r} has more than six decimals"


@pytest.mark.parametrize("value", [0.123456, 0.999999, 0.000001, 0.29, 0.0])
def test_a_sparsity_of_six_decimals_is_kept_as_written(value):
    assert config.load(values(pruning={"sparsities": value})).pruning.sparsities == [value]


@pytest.mark.parametrize(
    ("raw", "key", "value", "allowed", "meant"),
    [
        (values(pruning={"methods": ["magnitud"]}), "pruning.methods", "magnitud", "random", "magnitude"),
        (values(fine_tuning={"methods": "randon"}), "fine_tuning.methods", "randon", "magnitude", "random"),
        (values({"network": "fcc"}), "experiments.0.network", "fcc", "lenet5", "fc"),
        (values({"dataset": "digit"}), "experiments.0.dataset", "digit", "cifar10", "digits"),
        (values(epsilon="batchstd"), "epsilon", "batchstd", "relative", "batch_std"),
        (values(epsilon={"relativ": 0.1}), "epsilon", "relativ", "absolute", "relative"),
        (values({"epsilon": ["absolut:1"]}), "experiments.0.epsilon", "absolut", "batch_std", "absolute"),
        (
            values({"dataset": {"name": "digits", "options": {"train_limi": 3}}}),
            "experiments.0.dataset",
            "train_limi",
            "image_size",
            "train_limit",
        ),
        (
            values({"network": {"name": "fc", "options": {"hiden": [3]}}}),
            "experiments.0.network",
            "hiden",
            "batch_norm",
            "hidden",
        ),
    ],
)
def test_an_unknown_name_is_named_with_what_is_allowed_and_the_nearest_match(raw, key, value, allowed, meant):
    line = only_fault(raw)
    assert line.startswith(f"{key}: ")
    assert repr(value) in line
    assert re.search(rf"allowed: .*\b{allowed}\b", line)
    assert f"did you mean {meant!r}?" in line


@pytest.mark.parametrize(
    ("path", "value", "allowed", "meant"),
    [
        ("spectrum.operators", "hesian", ["hessian", "ggn"], "hessian"),
        ("training.schedule", "cosin", ["constant", "cosine", "multistep"], "cosine"),
        ("fine_tuning.augmentation", "cropflip", ["none", "flip", "crop_flip"], "crop_flip"),
        ("device", "cud", ["auto", "cpu", "cuda"], "cuda"),
    ],
)
def test_an_unknown_word_of_a_closed_choice_is_named_with_what_is_allowed_and_the_nearest_match(
    path, value, allowed, meant
):
    line = only_fault(values(**nested(path, value)))
    assert re.match(rf"{re.escape(path)}(\.0)?: ", line)
    assert repr(value) in line
    assert all(name in line for name in allowed)
    assert f"did you mean {meant!r}?" in line


@pytest.mark.parametrize("rule", ["relative", "relative: 0", "absolute: -1", "absolute: x", {"relative": math.nan}])
def test_an_epsilon_rule_without_a_positive_number_is_named(rule):
    kind = "absolute" if "absolute" in rule else "relative"
    line = only_fault(values(epsilon=[rule]))
    assert line.startswith(f"epsilon: epsilon rule {kind!r} needs a positive number")
    assert line.endswith(f"got {rule!r}")


def test_batch_std_takes_no_number():
    assert only_fault(values(epsilon="batch_std:3")) == "epsilon: epsilon rule 'batch_std' takes no number"


@pytest.mark.parametrize(
    ("path", "listed", "twice"),
    [
        ("training.l1", [1e-4, 0, 1.0e-4], "0.0001"),
        ("spectrum.operators", ["ggn", "ggn"], "'ggn'"),
        ("epsilon", ["relative: 0.1", {"relative": 0.1}], "'relative:0.1'"),
        ("pruning.methods", ["random", "magnitude", "random"], "'random'"),
        ("pruning.sparsities", [0.5, 0.9, 0.5], "0.5"),
        ("fine_tuning.methods", ["magnitude", "magnitude"], "'magnitude'"),
        ("fine_tuning.sparsities", [0.9, 0.9], "0.9"),
        ("criteria.accuracy_drop", [1, 1.0], "1.0"),
        ("seeds", [0, 1, 0], "0"),
    ],
)
def test_a_doubled_value_of_a_sweep_is_named(path, listed, twice):
    assert only_fault(values(**nested(path, listed))) == f"{path}: {twice} is listed twice"


def test_two_experiments_of_one_name_are_refused():
    experiment = {"dataset": "digits", "network": "fc"}
    assert "two experiments are called 'digits_fc'" in only_fault({"experiments": [experiment, experiment]})
    named = [{**experiment, "name": "digits_cnn"}, {"dataset": "digits", "network": "cnn"}]
    assert "two experiments are called 'digits_cnn'" in only_fault({"experiments": named})


@pytest.mark.parametrize("name", ["9a", "a-b", "a b", "", "a/b"])
def test_a_name_that_is_no_file_name_is_refused(name):
    line = only_fault(values({"name": name}))
    assert line.startswith(f"experiments.0: name {name!r} must start with a letter")


def test_fine_tuning_a_method_that_is_not_pruned_is_refused():
    line = only_fault(values(pruning={"methods": ["magnitude"]}, fine_tuning={"methods": ["magnitude", "random"]}))
    assert line == (
        "experiments.0: fine_tuning.methods holds random, which pruning.methods does not; allowed: magnitude, or [] for"
        " no fine-tuning"
    )


@pytest.mark.parametrize("section", ["training", "fine_tuning"])
def test_multistep_without_milestones_is_refused(section):
    line = only_fault(values(**{section: {"schedule": "multistep"}}))
    assert line == f"{section}: schedule 'multistep' needs milestones (epochs)"
    assert config.load(values(**{section: {"schedule": "multistep", "milestones": [3]}}))


def test_nesterov_without_momentum_is_refused():
    line = only_fault(values(training={"nesterov": True, "momentum": 0}))
    assert line == "training: nesterov needs a momentum above 0"


@pytest.mark.parametrize("section", ["training", "fine_tuning"])
def test_an_accumulation_that_does_not_divide_the_batch_is_refused(section):
    line = only_fault(values(**{section: {"batch_size": 100, "accumulation": 3}}))
    assert line == f"{section}: accumulation 3 does not divide batch_size, 100"
    (run,) = config.expand(config.load(values(**{section: {"batch_size": 100, "accumulation": 4}}))).values()
    assert (run.recipe() if section == "training" else run.fine_tuning())["accumulation"] == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["lr", "l1", "momentum", "weight_decay", "gamma", "warmup_epochs"])
def test_a_number_that_is_not_finite_is_refused(key, value):
    line = only_fault(values(training={key: value}))
    assert line.startswith(f"training.{key}")
    assert repr(value) in line


def test_a_seed_that_the_tables_cannot_hold_is_refused():
    """Column `seed` is int64, so a larger seed trains for hours and is lost when the first table is written."""
    assert config.load(values(seeds=2**63 - 1)).seeds == [2**63 - 1]
    assert str(2**63) in only_fault(values(seeds=2**63))


# --- how faults are reported --------------------------------------------------------------------------------


def test_several_faults_are_all_reported():
    lines = faults(
        {
            "experiments": [{"dataset": "digit", "network": "fcc"}, {"dataset": "digits", "network": "fc", "nam": "x"}],
            "training": {"lr": -1, "epochz": 2},
            "seeds": "first",
            "devices": "cpu",
        }
    )
    assert sorted(line.split(":")[0] for line in lines) == [
        "devices",
        "experiments.0.dataset",
        "experiments.0.network",
        "experiments.1.nam",
        "seeds.0",
        "training.epochz",
        "training.lr",
    ]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"training": {"epoch": 3}}, "training.epoch"),
        ({"training": {"schedule": "multistep"}}, "training"),
        ({"pruning": {"sparsities": [2]}}, "pruning.sparsities"),
        ({"epsilon": ["x"]}, "epsilon"),
    ],
)
def test_a_fault_of_a_shared_section_is_reported_once_and_not_for_every_experiment(section, key):
    experiments = [{"dataset": "digits", "network": name} for name in ("fc", "fc5", "lenet5")]
    assert only_fault({"experiments": experiments, **section}).split(":")[0] == key


def test_a_fault_of_one_experiment_names_that_experiment():
    experiments = [{"dataset": "digits", "network": "fc"}, {"dataset": "digits", "network": "fc5", "epsilon": "x"}]
    assert only_fault({"experiments": experiments}).startswith("experiments.1.epsilon: 'x'")


def test_an_experiments_own_fault_is_reported_beside_the_same_kind_of_fault_in_the_shared_section():
    raw = values({"training": {"epochs": -7}}, training={"epochs": 0})
    lines = faults(raw)
    assert any(line.startswith("training.epochs: ") and line.endswith("got 0") for line in lines)
    assert any(line.startswith("experiments.0.training.epochs: ") and line.endswith("got -7") for line in lines)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"experiments: [", "cannot be read"),
        (b"\texperiments: 3", "cannot be read"),
        (b"- a\n- b\n", "must hold a YAML mapping, found list"),
        (b"", "must hold a YAML mapping, found NoneType"),
        (b"seeds: [0]\n", "is not valid"),
        (b"# Stra\xdfe\nseeds: [0]\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, reason):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path} {reason}")):
        config.load_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "no.yaml"))):
        config.load_file(tmp_path / "no.yaml")


# --- what is accepted ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "epsilon"])
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


def test_loading_leaves_the_given_mapping_as_it_was():
    raw = values({"training": {"lr": 0.5}}, training={"epochs": 3}, pruning={"sparsities": [0.9, 0.1]})
    before = json.dumps(raw)
    config.load(raw)
    assert json.dumps(raw) == before


def test_deep_merge_replaces_what_is_no_mapping():
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 3, "c": {"z": 1}}
    above = {"a": {"y": [3]}, "b": {"w": 4}, "c": 5, "d": 6}
    assert deep_merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": {"w": 4}, "c": 5, "d": 6}


# --- runs ---------------------------------------------------------------------------------------------------


def test_every_l1_value_of_every_experiment_makes_a_run():
    loaded = config.load(
        {
            "experiments": [
                {"dataset": "digits", "network": "fc", "training": {"l1": [0, 1e-4, 2.5e-5]}},
                {"name": "mine", "dataset": {"name": "digits", "options": {"train_limit": 50}}, "network": "cnn"},
            ],
            "training": {"l1": 3e-4, "epochs": 4},
        }
    )
    runs = config.expand(loaded)
    assert list(runs) == ["digits_fc_l1-0", "digits_fc_l1-1e-4", "digits_fc_l1-2.5e-5", "mine_l1-3e-4"]
    assert [run.name for run in runs.values()] == list(runs)
    assert [run.l1 for run in runs.values()] == [0, 1e-4, 2.5e-5, 3e-4]
    assert runs["digits_fc_l1-2.5e-5"].recipe()["l1"] == runs["digits_fc_l1-2.5e-5"].fine_tuning()["l1"] == 2.5e-5
    assert runs["mine_l1-3e-4"].recipe()["epochs"] == 4


def test_a_second_l1_value_does_not_rename_the_first_run():
    one = config.expand(config.load(values(training={"l1": 1e-4})))
    two = config.expand(config.load(values(training={"l1": [5e-5, 1e-4]})))
    (name,) = one
    assert name in two
    assert one[name].recipe() == two[name].recipe()
    assert one[name].fine_tuning() == two[name].fine_tuning()
    assert one[name].dataset_key == two[name].dataset_key


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=4, unique=True))
@example([1e-4, 1.00000001e-4])
def test_no_l1_value_is_lost_in_the_expansion(coefficients):
    runs = config.expand(config.load(values(training={"l1": coefficients})))
    assert [run.l1 for run in runs.values()] == coefficients


def test_a_run_name_can_be_a_directory_and_a_wildcard():
    runs = config.expand(config.load(values({"network": "gwprune.models.fc:fc"}, training={"l1": [1e-10, 0.5]})))
    assert list(runs) == ["digits_gwprune_models_fc_fc_l1-1e-10", "digits_gwprune_models_fc_fc_l1-5e-1"]


def test_recipes_hold_what_the_training_loop_takes_and_nothing_else():
    from gwprune.training.train import Recipe

    (run,) = config.expand(config.load(values())).values()
    assert Recipe(**run.recipe()) == Recipe(**json.loads(json.dumps(run.recipe())))
    assert set(run.recipe()) == set(run.fine_tuning()) == set(Recipe.__dataclass_fields__)
    assert (run.recipe()["epochs"], run.fine_tuning()["epochs"]) == (30, 5)


def test_runs_share_a_data_file_only_if_name_and_options_agree():
    limited = {"name": "digits", "options": {"train_limit": 50}}
    loaded = config.load(
        {
            "experiments": [
                {"name": "a", "dataset": "digits", "network": "fc"},
                {"name": "b", "dataset": {"name": "digits"}, "network": "cnn"},
                {"name": "c", "dataset": limited, "network": "fc"},
                {"name": "d", "dataset": {"options": {"train_limit": 50}, "name": "digits"}, "network": "cnn"},
                {"name": "e", "dataset": {"name": "digits", "options": {"train_limit": 51}}, "network": "fc"},
            ]
        }
    )
    keys = [run.dataset_key for run in config.expand(loaded).values()]
    assert keys[0] == keys[1] == "digits"
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_a_section_of_a_run_gives_the_asked_keys():
    (run,) = config.expand(config.load(values(spectrum={"steps": 9}))).values()
    assert run.section("spectrum", "steps", "probes") == {"steps": 9, "probes": 1}
    assert list(run.section("criteria")) == ["accuracy_drop"]


@given(st.integers(min_value=0, max_value=999_999))
def test_a_sparsity_comes_back_from_its_token(parts_per_million):
    sparsity = config.load(values(pruning={"sparsities": parts_per_million / 1e6})).pruning.sparsities[0]
    token = sparsity_token(sparsity)
    assert re.fullmatch(r"\d{6}", token)
    assert int(token) == parts_per_million
    assert chunk_token([sparsity]) == token


@pytest.mark.parametrize(("size", "parts"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_chunks_hold_every_sparsity_once_under_distinct_names(size, parts):
    given = values(fine_tuning={"sparsities": [0.5, 0.6, 0.7, 0.8, 0.9], "chunk": size})
    (run,) = config.expand(config.load(given)).values()
    chunks = run.chunks()
    assert [len(part) for part in chunks.values()] == parts
    assert [s for part in chunks.values() for s in part] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(re.fullmatch(r"\d{6}(-\d{6}-[0-9a-f]{6})?", token) for token in chunks)
    assert "chunk" not in run.fine_tuning()


def test_chunks_of_the_same_ends_and_other_sparsities_have_other_names():
    assert chunk_token([0.5, 0.6, 0.9]) != chunk_token([0.5, 0.7, 0.9])


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
    assert sorted(update(checkout)) == sorted(generated_files(checkout))
    schema_file, *readmes = generated_files(checkout)
    assert schema_file.read_text() == schema_text()
    for path, generated in zip(readmes, (key_reference(), "### `tables/sweep.parquet`"), strict=True):
        text = path.read_text()
        assert text.startswith(f"# {path.parent.name}\n\nby hand above\n\n<!-- generated: begin -->")
        assert text.endswith("<!-- generated: end -->\n\nby hand below\n")
        assert generated in text
        assert "\nold\n" not in text
    assert update(checkout) == []


def test_check_writes_nothing(checkout):
    before = {path: path.read_bytes() for path in checkout.glob("**/*") if path.is_file()}
    assert sorted(update(checkout, check=True)) == sorted(generated_files(checkout))
    assert {path: path.read_bytes() for path in checkout.glob("**/*") if path.is_file()} == before


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


def test_text_outside_of_the_marks_is_free(checkout):
    update(checkout)
    path = checkout / "config/README.md"
    path.write_text(path.read_text().replace("by hand above", "something else"))
    assert update(checkout, check=True) == []


def test_a_deleted_schema_is_a_drift(checkout):
    update(checkout)
    path = generated_files(checkout)[0]
    path.unlink()
    assert update(checkout, check=True) == [path]


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


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("training", {"epochs": True}, ["epochs", "True"]),
        ("training", {"l1": [True]}, ["l1", "True"]),
        ("training", {"nesterov": "yes"}, ["nesterov", "'yes'"]),
        ("training", {"schedule": "multistep", "milestones": [-3]}, ["milestones", "-3"]),
        ("training", {"epochs": 30, "warmup_epochs": 100}, ["warmup_epochs 100", "30"]),
    ],
)
def test_truth_values_and_impossible_numbers_are_refused(section, values, words):
    with pytest.raises(ConfigError) as caught:
        config.load({"experiments": [{"dataset": "digits", "network": "fc"}], section: values})
    assert all(word in str(caught.value) for word in words)
