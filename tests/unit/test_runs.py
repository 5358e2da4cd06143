"""Expansion of a configuration into runs, and of a run into jobs."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gwprune import config
from gwprune.config.runs import chunk_token, sparsity_token
from gwprune.pruning import without_control

from .helpers_config import only_run, values


def test_every_l1_value_of_every_experiment_makes_a_run():
    loaded = config.load(
        {
            "experiments": [
                {"dataset": "digits", "network": "fc", "training": {"l1": [0, 1e-4, 2.5e-5]}},
                {"name": "mine", "dataset": {"name": "digits", "options": {"train_limit": 500}}, "network": "cnn"},
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
    limited = {"name": "digits", "options": {"train_limit": 500}}
    loaded = config.load(
        {
            "experiments": [
                {"name": "a", "dataset": "digits", "network": "fc"},
                {"name": "b", "dataset": {"name": "digits"}, "network": "cnn"},
                {"name": "c", "dataset": limited, "network": "fc"},
                {"name": "d", "dataset": {"options": {"train_limit": 500}, "name": "digits"}, "network": "cnn"},
                {"name": "e", "dataset": {"name": "digits", "options": {"train_limit": 501}}, "network": "fc"},
            ]
        }
    )
    keys = [run.dataset_key for run in config.expand(loaded).values()]
    assert keys[0] == keys[1] == "digits"
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_trees_of_images_have_keys_of_their_own():
    def key(path: str, data_dir: str = "data") -> str:
        options = {"path": path, "image_size": 8}
        return only_run({"dataset": {"name": "image_folder", "options": options}}, data_dir=data_dir).dataset_key

    assert key("cats") != key("dogs")
    assert key("cats") == key("cats", data_dir="elsewhere")


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
    run = only_run(sparse_training={"sparsities": [0.5, 0.6, 0.7, 0.8, 0.9], "chunk": size})
    chunks = run.sparse_chunks()
    assert [len(part) for part in chunks.values()] == parts
    assert [s for part in chunks.values() for s in part] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(re.fullmatch(r"\d{6}(-\d{6}-[0-9a-f]{6})?", token) for token in chunks)


@pytest.mark.parametrize("asked", [[0.5, 0.6], [0.0, 0.5, 0.6]])
def test_the_control_is_trained_once_with_the_first_method(asked):
    tuning = {"methods": ["magnitude", "random"], "sparsities": asked, "chunk": 2}
    run = only_run(pruning={"methods": ["random", "magnitude"]}, fine_tuning=tuning)
    assert list(run.finetune_chunks("magnitude").values()) == [[0.0, 0.5], [0.6]]
    assert list(run.finetune_chunks("random").values()) == [[0.5, 0.6]]


@pytest.mark.parametrize(
    ("asked", "resolution", "rules", "expected"),
    [
        ([0.8, 0.9], 0.005, 1, 8),  # 0.8 / 2^8 < 0.005 where the first one misses
        ([0.2, 0.4, 0.6, 0.8], 0.05, 1, 2),
        ([0.2, 0.4, 0.6, 0.8], 0.05, 2, 4),
        ([0.5], 0.9, 1, 1),
    ],
)
def test_a_search_halves_the_widest_step(asked, resolution, rules, expected):
    epsilon = ["batch_std", "relative: 1"][:rules]
    run = only_run(fine_tuning={"sparsities": asked, "resolution": resolution}, epsilon=epsilon)
    assert run.most_searched() == expected


def test_chunks_of_the_same_ends_and_other_sparsities_have_other_names():
    assert chunk_token([0.5, 0.6, 0.9]) != chunk_token([0.5, 0.7, 0.9])


# --- sparse training ----------------------------------------------------------------------------------------


_TEN = {"epochs": 10}


def test_sparse_training_takes_the_recipe_of_dense_training_and_the_epochs_of_both():
    run = only_run(training=_TEN, fine_tuning={"epochs": 4})
    assert run.sparse_recipe() == {**run.recipe(), "epochs": 14}
    assert only_run(training=_TEN, sparse_training={"epochs": 7}).sparse_recipe()["epochs"] == 7


def test_rewound_fine_tuning_takes_the_recipe_of_dense_training():
    plain, rewound = (
        only_run(training=_TEN, fine_tuning={"epochs": 4, "rewinding": kind}) for kind in ("none", "learning_rate")
    )
    assert rewound.fine_tuning() == rewound.recipe()
    assert plain.fine_tuning()["epochs"] == 4
    assert set(plain.fine_tuning()) == set(plain.recipe())


def test_controls_stand_behind_the_names_of_their_methods():
    section = {"methods": ["snip", "imp"], "controls": ["layerwise_shuffle", "reinitialise"]}
    run = only_run(training=_TEN, sparse_training=section)
    controls = [(name, control) for name in section["methods"] for control in section["controls"]]
    assert run.masked_methods() == [("snip", ""), *controls]
    assert run.iterative_methods() == ["imp"]
    assert [without_control("_".join(item)) for item in controls] == controls
    assert without_control("random_matched") == ("random_matched", "")


def test_chains_of_iterative_pruning_share_the_levels_that_they_have_in_common():
    run = only_run(
        training=_TEN, sparse_training={"methods": ["imp"], "sparsities": [0.5, 0.6], "options": {"imp": {"rate": 0.2}}}
    )
    first, second = run.chain("imp", 0.5), run.chain("imp", 0.6)
    assert [node.level.sparsity for node in first] == [0.2, 0.36, 0.488, 0.5]
    assert [node.level.sparsity for node in second] == [0.2, 0.36, 0.488, 0.5904, 0.6]
    assert first[:3] == second[:3]
    assert len(run.nodes("imp")) == 6
    for chain in (first, second):
        assert [node.before for node in chain] == [None, *(node.name for node in chain[:-1])]


def test_a_chain_to_sparsity_0_trains_on_without_pruning():
    run = only_run(training=_TEN, sparse_training={"methods": ["imp", "gmp", "rare_gems"], "sparsities": [0.0, 0.5]})
    (node,) = run.chain("imp", 0.0)
    assert (node.level.sparsity, node.level.first_epoch, node.level.last_epoch) == (0.0, 1, 10)
    assert all(run.nodes(name) for name in run.iterative_methods())


def test_gradual_pruning_shares_its_start_alone():
    run = only_run(
        training=_TEN, sparse_training={"methods": ["gmp"], "sparsities": [0.5, 0.9], "options": {"gmp": {"levels": 3}}}
    )
    first, second = run.chain("gmp", 0.5), run.chain("gmp", 0.9)
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, False, False]
    assert first[-1].level.last_epoch == 15
    assert [node.level.first_epoch for node in first[1:]] == [node.level.last_epoch for node in first[:-1]]


def test_another_option_gives_the_levels_other_names():
    names = [
        only_run(training=_TEN, sparse_training={"methods": ["imp"], "options": {"imp": options}}).nodes("imp").keys()
        for options in ({"rewind_epoch": 1}, {"rewind_epoch": 2})
    ]
    assert not names[0] & names[1]
