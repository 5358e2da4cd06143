"""Configuration of sparse training and rewinding: what is refused, and the jobs that it expands to."""

from __future__ import annotations

from typing import Any

import pytest

from gwprune import config
from gwprune.config import ConfigError
from gwprune.pruning import without_control


def loaded(**sections: Any) -> config.Run:
    values = {"experiments": [{"dataset": "digits", "network": "fc"}], "training": {"epochs": 10, "l1": 1e-4}}
    (run,) = config.expand(config.load({**values, **sections})).values()
    return run


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"pruning": {"methods": ["snip"]}},
            ["pruning.methods: snip does not rank a trained network", "sparse_training"],
        ),
        ({"pruning": {"methods": ["imp"]}}, ["imp does not rank a trained network"]),
        ({"sparse_training": {"methods": ["snap"]}}, ["sparse_training.methods: 'snap'", "did you mean 'snip'"]),
        ({"sparse_training": {"methods": ["snip", "snip"]}}, ["'snip' is listed twice"]),
        ({"sparse_training": {"methods": ["lamp"]}}, ["sparse_training.methods holds lamp", "pruning.methods"]),
        ({"sparse_training": {"controls": ["shuffle"]}}, ["sparse_training.controls", "layerwise_shuffle"]),
        ({"sparse_training": {"options": {"imp": {"speed": 1}}}}, ["'speed' is no option of method imp", "rate"]),
        ({"sparse_training": {"options": {"obd": {"probes": 1}}}}, ["'obd' is no pruning method"]),
        ({"sparse_training": {"methods": ["imp"], "options": {"imp": {"rate": 2}}}}, ["imp needs", "rate in (0, 1)"]),
        ({"sparse_training": {"methods": ["imp"], "options": {"imp": {"rewind_epoch": 10}}}}, ["from 0 to 9"]),
        ({"sparse_training": {"methods": ["gmp"], "epochs": 1}}, ["at least 2 epochs, got 1"]),
        ({"sparse_training": {"sparsities": [1.0]}}, ["sparse_training.sparsities: sparsity 1.0 is outside [0, 1)"]),
        ({"sparse_training": {"epochs": 0}}, ["sparse_training.epochs"]),
        ({"fine_tuning": {"rewinding": "weight"}}, ["fine_tuning.rewinding", "did you mean 'weights'"]),
        ({"fine_tuning": {"rewinding": "weights", "epochs": 11}}, ["fine_tuning.epochs = 11", "training.epochs = 10"]),
    ],
)
def test_what_no_stage_can_run_is_refused_by_name(sections, words):
    with pytest.raises(ConfigError) as caught:
        loaded(**sections)
    for word in words:
        assert word in str(caught.value)


def test_sparse_training_takes_the_recipe_of_dense_training_and_the_epochs_of_both():
    run = loaded(fine_tuning={"epochs": 4})
    assert run.sparse_recipe() == {**run.recipe(), "epochs": 14}
    assert loaded(sparse_training={"epochs": 7}).sparse_recipe()["epochs"] == 7


def test_rewound_fine_tuning_takes_the_recipe_of_dense_training():
    plain, rewound = (loaded(fine_tuning={"epochs": 4, "rewinding": kind}) for kind in ("none", "learning_rate"))
    assert rewound.fine_tuning() == rewound.recipe()
    assert plain.fine_tuning()["epochs"] == 4
    assert set(plain.fine_tuning()) == set(plain.recipe())


def test_controls_stand_behind_the_names_of_their_methods():
    section = {"methods": ["snip", "imp"], "controls": ["layerwise_shuffle", "reinitialise"]}
    run = loaded(sparse_training=section)
    controls = [f"{name}_{control}" for name in section["methods"] for control in section["controls"]]
    assert run.masked_methods() == ["snip", *controls]
    assert run.iterative_methods() == ["imp"]
    assert [without_control(name) for name in controls[1:3]] == [("snip", "reinitialise"), ("imp", "layerwise_shuffle")]
    assert without_control("random_matched") == ("random_matched", "")


def test_chains_of_iterative_pruning_share_the_levels_that_they_have_in_common():
    run = loaded(sparse_training={"methods": ["imp"], "sparsities": [0.5, 0.6], "options": {"imp": {"rate": 0.2}}})
    first, second = run.chain("imp", 0.5), run.chain("imp", 0.6)
    assert [node.level.sparsity for node in first] == [0.2, 0.36, 0.488, 0.5]
    assert [node.level.sparsity for node in second] == [0.2, 0.36, 0.488, 0.5904, 0.6]
    assert first[:3] == second[:3]
    assert len(run.nodes("imp")) == 6
    for chain in (first, second):
        assert [node.before for node in chain] == [None, *(node.name for node in chain[:-1])]


def test_gradual_pruning_shares_its_start_alone():
    run = loaded(sparse_training={"methods": ["gmp"], "sparsities": [0.5, 0.9], "options": {"gmp": {"levels": 3}}})
    first, second = run.chain("gmp", 0.5), run.chain("gmp", 0.9)
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, False, False]
    assert first[-1].level.last_epoch == 15
    assert [node.level.first_epoch for node in first[1:]] == [node.level.last_epoch for node in first[:-1]]


def test_another_option_gives_the_levels_other_names():
    names = [
        loaded(sparse_training={"methods": ["imp"], "options": {"imp": options}}).nodes("imp").keys()
        for options in ({"rewind_epoch": 1}, {"rewind_epoch": 2})
    ]
    assert not names[0] & names[1]
