"""What a configuration may not hold: errors that say key, value, what is allowed and what was meant."""

from __future__ import annotations

import math
import re

import pytest

from gwprune import config
from gwprune.config.models import Config

from .helpers_config import faults, nested, only_fault, values

# --- unknown keys and names ----------------------------------------------------------------------------------


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
    section = type(Config.model_fields["spectrum"].default)
    assert only_fault(values(zzz=1)) == f"zzz: unknown key; allowed: {', '.join(Config.model_fields)}"
    line = only_fault(values(spectrum={"zzz": 1}))
    assert line == f"spectrum.zzz: unknown key; allowed: {', '.join(section.model_fields)}"


@pytest.mark.parametrize(
    ("raw", "key", "hint"),
    [
        (values(l1=0), "l1", "it belongs in training"),
        (values({"epochs": 3}), "experiments.0.epochs", "it belongs in training or fine_tuning or sparse_training"),
        ({"dataset": "digits", "experiments": [{"dataset": "digits", "network": "fc"}]}, "dataset", "experiments"),
        (values({"network": {"name": "fc", "hidden": [9]}}), "experiments.0.network.hidden", "options: {hidden: [9]}"),
    ],
)
def test_a_key_in_the_wrong_section_is_sent_to_its_own(raw, key, hint):
    line = only_fault(raw)
    assert line.startswith(f"{key}: unknown key; allowed: ")
    assert line.endswith(hint)


@pytest.mark.parametrize("value", [0.05, 1e-5, "5%", "0.05"])
def test_a_tolerance_without_its_rule_is_told_the_rules(value):
    assert "a number without its rule: relative (times the dense loss) or absolute" in only_fault(values(epsilon=value))


def test_a_results_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    assert only_fault(values(results=str(tmp_path / "mine"))).endswith("is a file: a directory is wanted")


@pytest.mark.parametrize(
    ("raw", "key", "value", "allowed", "meant"),
    [
        (values(pruning={"methods": ["magnitud"]}), "pruning.methods", "magnitud", "random", "magnitude"),
        (values(fine_tuning={"methods": "randon"}), "fine_tuning.methods", "randon", "magnitude", "random"),
        (values(sparse_training={"methods": "snap"}), "sparse_training.methods", "snap", "imp", "snip"),
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
        (values(spectrum={"operators": "hesian"}), "spectrum.operators.0", "hesian", "ggn", "hessian"),
        (values(spectrum={"predictors": "widht"}), "spectrum.predictors", "widht", "quadratic", "width"),
        (values(training={"schedule": "cosin"}), "training.schedule", "cosin", "multistep", "cosine"),
        (values(fine_tuning={"augmentation": "cropflip"}), "fine_tuning.augmentation", "cropflip", "flip", "crop_flip"),
        (values(fine_tuning={"rewinding": "weight"}), "fine_tuning.rewinding", "weight", "none", "weights"),
        (values(device="gpu"), "device", "gpu", "auto", "cuda"),
    ],
)
def test_an_unknown_name_is_named_with_what_is_allowed_and_the_nearest_match(raw, key, value, allowed, meant):
    line = only_fault(raw)
    assert line.startswith(f"{key}: ")
    assert repr(value) in line
    assert re.search(rf"\b{allowed}\b", line)
    assert f"did you mean {meant!r}?" in line


# --- types and ranges ----------------------------------------------------------------------------------------


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
        ("training.nesterov", "yes", "boolean"),
        ("training.mixed_precision", "perhaps", "boolean"),
        ("training.label_smoothing", 1.0, "less than 1"),
        ("training.label_smoothing", -0.1, "greater than or equal to 0"),
        ("training.accumulation", 0, "greater than or equal to 1"),
        ("training.milestones", 3, "list"),
        ("training.l1", -1e-4, "greater than or equal to 0"),
        ("training", "long", "keys and values"),
        ("training", None, "keys and values"),
        ("spectrum.steps", 1, "greater than or equal to 2"),
        ("spectrum.operators", [], "at least 1 item"),
        ("pruning.methods", 3, "string"),
        ("pruning.resolution", 1.0, "less than 1"),
        ("sparse_training.epochs", 0, "greater than or equal to 1"),
        ("criteria.accuracy_drop", 0, "greater than 0"),
        ("criteria.accuracy_drop", 150, "less than 100"),
        ("seeds", -1, "greater than or equal to 0"),
        ("results", 3, "string"),
        ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("experiments", {"dataset": "digits"}, "list"),
        ("experiments", [], "at least 1 item"),
        *((f"training.{key}", math.nan, "finite") for key in ("lr", "l1", "momentum", "weight_decay", "gamma")),
        ("training.warmup_epochs", math.inf, "finite"),
        # Column `seed` of the tables is int64: a larger seed would train for hours and be lost then.
        ("seeds", 2**63, "less than 9223372036854775808"),
    ],
)
def test_a_value_of_wrong_type_or_range_is_named_with_key_value_and_what_is_allowed(path, value, allowed):
    line = only_fault(values(**nested(path, value)))
    assert re.match(rf"{re.escape(path)}(\.0)?: ", line)
    assert allowed in line
    assert f"got {value!r}" in line


@pytest.mark.parametrize(("path", "value"), [("training.epochs", True), ("training.l1", [True])])
def test_truth_values_are_no_numbers(path, value):
    assert only_fault(values(**nested(path, value))).endswith(f"a number or a name is wanted, got {value!r}")


def test_a_missing_key_of_an_experiment_is_named():
    assert only_fault({"experiments": [{"dataset": "digits"}]}) == "experiments.0.network: Field required"
    assert only_fault({}) == "experiments: Field required"


@pytest.mark.parametrize("section", ["pruning", "fine_tuning", "sparse_training"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((value, f"sparsity {value!r} is outside [0, 1)") for value in (1.0, -0.1)),
        *((value, f"sparsity {value!r} has more than six decimals") for value in (0.1234567, 0.0000001)),
        *((value, f"Input should be a finite number, got {value!r}") for value in (math.nan, math.inf)),
    ],
)
def test_an_impossible_sparsity_is_named(section, value, text):
    line = only_fault(values(**{section: {"sparsities": [0.5, value]}}))
    assert re.fullmatch(rf"{section}\.sparsities(\.1)?: {re.escape(text)}", line)


@pytest.mark.parametrize("rule", ["relative", "relative: 0", "absolute: -1", "absolute: x", {"relative": math.nan}])
def test_an_epsilon_rule_without_a_positive_number_is_named(rule):
    kind = "absolute" if "absolute" in rule else "relative"
    line = only_fault(values(epsilon=[rule]))
    assert line.startswith(f"epsilon: epsilon rule {kind!r} needs a positive number")
    assert line.endswith(f"got {rule!r}")


@pytest.mark.parametrize(
    ("path", "listed", "twice"),
    [
        ("training.l1", [1e-4, 0, 1.0e-4], "0.0001"),
        ("spectrum.operators", ["ggn", "ggn"], "'ggn'"),
        ("spectrum.predictors", ["width", "width"], "'width'"),
        ("epsilon", ["relative: 0.1", {"relative": 0.1}], "'relative:0.1'"),
        ("pruning.methods", ["random", "magnitude", "random"], "'random'"),
        ("pruning.sparsities", [0.5, 0.9, 0.5], "0.5"),
        ("fine_tuning.methods", ["magnitude", "magnitude"], "'magnitude'"),
        ("fine_tuning.sparsities", [0.9, 0.9], "0.9"),
        ("sparse_training.methods", ["snip", "snip"], "'snip'"),
        ("criteria.accuracy_drop", [1, 1.0], "1.0"),
        ("seeds", [0, 1, 0], "0"),
    ],
)
def test_a_doubled_value_of_a_sweep_is_named(path, listed, twice):
    assert only_fault(values(**nested(path, listed))) == f"{path}: {twice} is listed twice"


# --- values that do not fit together -------------------------------------------------------------------------

_LIMITED = {"dataset": {"name": "digits", "options": {"train_limit": 100}}}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (values(epsilon="batch_std:3"), "epsilon: epsilon rule 'batch_std' takes no number"),
        (
            values(fine_tuning={"methods": ["magnitude", "random"]}),
            "experiments.0: fine_tuning.methods holds random, which pruning.methods does not; allowed: magnitude, or []"
            " for no fine-tuning",
        ),
        (values(training={"schedule": "multistep"}), "training: schedule 'multistep' needs milestones (epochs)"),
        (values(fine_tuning={"schedule": "multistep"}), "fine_tuning: schedule 'multistep' needs milestones (epochs)"),
        (
            values(training={"schedule": "multistep", "milestones": [10, 30]}),
            "training: milestone 30 is not before the end of the training, epochs = 30",
        ),
        (
            values(
                training={"schedule": "multistep", "milestones": [10]}, sparse_training={"methods": "snip", "epochs": 9}
            ),
            "experiments.0: sparse_training has 9 epochs of section training: milestone 10 is not before the end of the"
            " training, epochs = 9",
        ),
        (values(training={"warmup_epochs": 31}), "training: warmup_epochs 31 is longer than epochs, 30"),
        (values(training={"nesterov": True, "momentum": 0}), "training: nesterov needs a momentum above 0"),
        (
            values(training={"batch_size": 100, "accumulation": 3}),
            "training: accumulation 3 does not divide batch_size, 100",
        ),
        # 1,797 digits, of which a fifth is the test split and a tenth of the rest the validation split.
        (
            values(training={"batch_size": 1295}),
            "experiments.0: training.batch_size is 1295, but there are 1294 training images",
        ),
        (
            values(_LIMITED, training={"batch_size": 32}, fine_tuning={"batch_size": 91}),
            "experiments.0: fine_tuning.batch_size is 91, but there are 90 training images",
        ),
        (
            values({"dataset": "mnist"}, training={"batch_size": 54_001}),
            "experiments.0: training.batch_size is 54001, but there are 54000 training images",
        ),
        (
            values(_LIMITED, training={"batch_size": 90}, fine_tuning={"methods": []}),
            "experiments.0: epsilon rule 'batch_std' needs two whole batches, but training.batch_size is 90 of 90"
            " training images",
        ),
        (
            values({"dataset": {"name": "digits", "options": {"train_limit": 2, "validation_fraction": 0.9}}}),
            "experiments.0.dataset: data set 'digits': 2 samples cannot be divided into training and validation samples"
            " with validation_fraction = 0.9",
        ),
        (
            values(fine_tuning={"sparsities": []}),
            "experiments.0: fine_tuning.sparsities is empty: list some, or set fine_tuning.methods to []",
        ),
        (
            values(sparse_training={"methods": "snip", "sparsities": []}),
            "experiments.0: sparse_training.sparsities is empty: list some, or set sparse_training.methods to []",
        ),
        (
            values(training={"epochs": 10}, fine_tuning={"rewinding": "weights", "epochs": 11}),
            "experiments.0: fine_tuning.rewinding goes back fine_tuning.epochs = 11 epochs, but dense training has"
            " training.epochs = 10",
        ),
        (
            values(spectrum={"predictors": "statistical_dimension", "statistical_dimension": False}),
            "spectrum.predictors: no predictor is left: statistical_dimension is false",
        ),
        (
            values(spectrum={"operators": "hessian", "predictors": ["width", "surgeon"]}),
            "spectrum.predictors: surgeon needs operator ggn, and spectrum.operators holds hessian",
        ),
        (
            values(training={"milestones": [10, 20, 10], "schedule": "multistep"}),
            "training.milestones: 10 is listed twice",
        ),
        (values(results=" "), "results: a name of a directory is wanted, got blanks"),
        (values(seeds="0-4"), "seeds: seeds are a list, here [0, 1, 2, 3, 4]; got '0-4'"),
        (values(seeds="0, 2, 4"), "seeds: seeds are a list, here [0, 2, 4]; got '0, 2, 4'"),
        (values(seeds="0..99"), "seeds: seeds are a list, here [0, 1, ..., 99]; got '0..99'"),
        (
            values(results="out/{run}"),
            "results: braces would be wildcards of the workflow's files, got 'out/{run}'",
        ),
        (values(results="~nobody_of_this_name/x"), "results: no home directory is known for '~nobody_of_this_name/x'"),
        (
            values({"dataset": {"name": "image_folder", "options": {"image_size": 8}}}, data_dir="photos"),
            "experiments.0.dataset: data set 'image_folder' needs option 'path', the root of its tree"
            " <path>/train/<class>/<images> (the key data_dir is the directory of downloads)",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(raw, text):
    assert only_fault(raw) == text


@pytest.mark.parametrize("name", ["9a", "a-b", "a b", "", "a/b"])
def test_a_name_that_is_no_file_name_is_refused(name):
    line = only_fault(values({"name": name}))
    assert line.startswith(f"experiments.0: name {name!r} must start with a letter")


def test_two_experiments_of_one_name_are_refused():
    experiment = {"dataset": "digits", "network": "fc"}
    assert "two experiments are called 'digits_fc'" in only_fault({"experiments": [experiment, experiment]})
    named = [{**experiment, "name": "digits_cnn"}, {"dataset": "digits", "network": "cnn"}]
    assert "two experiments are called 'digits_cnn'" in only_fault({"experiments": named})


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
    lines = faults(values({"training": {"epochs": -7}}, training={"epochs": 0}))
    assert any(line.startswith("training.epochs: ") and line.endswith("got 0") for line in lines)
    assert any(line.startswith("experiments.0.training.epochs: ") and line.endswith("got -7") for line in lines)


def test_what_is_just_possible_is_accepted():
    config.load(values(training={"batch_size": 647, "schedule": "multistep", "milestones": [29]}, seeds=2**63 - 1))
    config.load(values(_LIMITED, training={"batch_size": 90}, fine_tuning={"batch_size": 90}, epsilon="relative: 1"))
    # Milestones of a schedule that has none, and a batch size of a recipe that does not count.
    config.load(values(training={"milestones": [99]}))
    config.load(values(_LIMITED, training={"batch_size": 32}, fine_tuning={"rewinding": "weights"}))
