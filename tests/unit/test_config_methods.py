"""Pruning methods in a configuration: where each may stand, values of their options, and methods of a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gwprune import config, pruning
from gwprune.network.prunable import PrunableSet

from .helpers_config import faults, only_fault, only_run, values

USER_MODULE = """
from gwprune.pruning import declare


def smallest_first(subject, power: int = 1, offset=0.0):
    return subject.prunable.flatten().abs() ** power + offset


@declare(when="initialisation", needs="labels")
def score2(subject):
    return subject.data[1].sum() * subject.prunable.flatten()


@declare(when="any", depends_on_sparsity=True)
def first(subject, sparsity):
    kept = subject.prunable.flatten() == subject.prunable.flatten()
    kept[: round(sparsity * len(kept))] = False
    return kept


@declare(when="later")
def wrong_word(subject):
    return subject


def with_reference(subject, reference):
    return subject.prunable.flatten() - reference


def too_few(subject):
    return subject.prunable.flatten()[1:]


def no_subject():
    return 1


def smallest_first_reinitialise(subject):
    return subject.prunable.flatten()
"""


@pytest.fixture
def user(tmp_path, monkeypatch) -> str:
    """Name of an importable module with methods."""
    (tmp_path / "user_scores_for_gwprune.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "user_scores_for_gwprune"


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"pruning": {"methods": ["snip"]}}, "pruning.methods: snip does not rank a trained network: list it in"),
        ({"pruning": {"methods": ["imp"]}}, "pruning.methods: imp does not rank a trained network"),
        ({"sparse_training": {"methods": ["lamp"]}}, "experiments.0: sparse_training.methods holds lamp, a ranking of"),
        (
            {"sparse_training": {"controls": ["shuffle"]}},
            "sparse_training.controls.0: Input should be 'layerwise_shuffle' or 'reinitialise', got 'shuffle'",
        ),
        (
            {
                "pruning": {"methods": ["magnitude"]},
                "sparse_training": {"methods": ["magnitude"], "controls": "layerwise_shuffle"},
            },
            "sparse_training: control layerwise_shuffle of method magnitude has the masks of method random_matched: ",
        ),
        ({"sparse_training": {"methods": ["gmp"], "epochs": 1}}, "experiments.0: gmp needs a training of at least 2"),
    ],
)
def test_a_method_in_the_wrong_place_is_refused(sections, text):
    assert only_fault(values(**sections)).startswith(text)


@pytest.mark.parametrize(
    ("section", "method", "options", "text"),
    [
        ("pruning", "obd", {"probes": "many"}, "option 'probes': Input should be a valid integer, got 'many'"),
        ("pruning", "obd", {"probes": -3}, "option 'probes': Input should be greater than or equal to 1, got -3"),
        (
            "pruning",
            "obd",
            {"operator": "hesian"},
            "'hessian' or 'ggn', got 'hesian'; did you mean 'hessian'?",
        ),
        ("pruning", "obd", {"probe": 3}, "'probe' is no option of method obd; allowed: probes, operator; did you mean"),
        ("pruning", "magnitude", {"power": 2}, "'power' is no option of method magnitude; allowed: none"),
        ("pruning", "wood_fisher", {"damping": -1}, "option 'damping': Input should be greater than 0, got -1"),
        ("pruning", "wood_fisher", {"damping": "1e-5"}, "YAML takes it for text: write 1.0e-5"),
        (
            "pruning",
            "wood_fisher",
            {"block_size": "x"},
            "option 'block_size': Input should be a valid integer",
        ),
        ("sparse_training", "rare_gems", {"search_epochs": 2.5}, "option 'search_epochs': Input should be a valid int"),
        (
            "sparse_training",
            "smart_ratio",
            {"last_linear": "x"},
            "option 'last_linear': Input should be a valid",
        ),
        (
            "sparse_training",
            "grasp",
            {"temperature": -5},
            "option 'temperature': Input should be greater than 0",
        ),
        ("sparse_training", "synflow", {"rounds": True}, "option 'rounds': Input should be a valid integer, got True"),
        ("sparse_training", "imp", {"rate": "fast"}, "option 'rate': Input should be a valid number, got 'fast'"),
        ("sparse_training", "imp", {"rate": 2}, "option 'rate': Input should be less than 1, got 2"),
        ("sparse_training", "gmp", {"begin": "x"}, "option 'begin': Input should be a valid number, got 'x'"),
        ("sparse_training", "obd", {"probes": 1}, "options of method obd stand in section pruning; allowed here: "),
        ("pruning", "imp", {"rate": 0.5}, "options of method imp stand in section sparse_training; allowed"),
    ],
)
def test_options_of_methods_are_checked_before_any_job(section, method, options, text):
    line = only_fault(values(**{section: {"options": {method: options}}}))
    assert line.startswith(f"{section}.options: ")
    assert text in line
    assert f"{method}" in line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"imp": {"rewind_epoch": 30}}, "imp needs rewind_epoch to be a whole number from 0 to 29"),
        ({"imp": {"rate": 1e-9}}, "imp with rate 1e-09 needs more than 500 rounds to sparsity 0.8, each a whole"),
        ({"gmp": {"begin": 0.8}}, "gmp needs a target in [0, 1), levels >= 1 and 0 <= begin < end < 1"),
    ],
)
def test_options_that_do_not_fit_the_trainings_are_refused(options, text):
    (line,) = faults(values(sparse_training={"methods": list(options), "options": options}))
    assert line.startswith(f"experiments.0: {text}")


def test_a_direct_call_checks_the_options_too():
    prunable = PrunableSet(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="method obd, option 'probes': Input should be a valid integer, got 'many'"):
        pruning.rank("obd", prunable, 0, options={"probes": "many"})
    with pytest.raises(ValueError, match="method synflow, option 'rounds'"):
        pruning.mask("synflow", prunable, 0, 0.5, options={"rounds": 0})


# --- methods of a user's own ---------------------------------------------------------------------------------


def test_a_users_method_stands_where_a_built_in_one_does(user):
    scores, initial = f"{user}:smallest_first", f"{user}:score2"
    run = only_run(
        pruning={"methods": ["magnitude", scores], "options": {scores: {"power": 2}}},
        fine_tuning={"methods": [scores]},
        sparse_training={"methods": [initial], "controls": ["reinitialise"]},
    )
    assert run.masked_methods() == [(initial, ""), (initial, "reinitialise")]
    assert pruning.without_control(f"{initial}_reinitialise") == (initial, "reinitialise")
    method = pruning.method_of(initial)
    assert (method.when, method.needs, method.depends_on_sparsity) == ("initialisation", "labels", False)
    assert (pruning.method_of(scores).when, pruning.method_of(scores).needs) == ("trained", None)


def test_a_users_method_ranks_and_masks(user):
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.tensor([[0.5, -0.1, 3.0]])
    prunable = PrunableSet(model)
    ranking = pruning.rank(f"{user}:smallest_first", prunable, 0, options={"offset": 1.0})
    assert torch.equal(ranking.ranks, pruning.rank("magnitude", prunable, 0).ranks)
    assert pruning.mask(f"{user}:first", prunable, 0, 2 / 3).tolist() == [False, False, True]
    with pytest.raises(TypeError, match=r"too_few must return scores as a real tensor of shape \(3,\), got .* \(2,\)"):
        pruning.rank(f"{user}:too_few", prunable, 0)
    with pytest.raises(ValueError, match="score2 needs samples with labels"):
        pruning.rank(f"{user}:score2", prunable, 0, model=model)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("smallest_firs", {}, "'smallest_firs' is no function of module"),
        ("wrong_word", {}, "when must be one of"),
        ("no_subject", {}, "cannot be called"),
        ("with_reference", {}, "needs option 'reference'"),
        ("score2", {}, "does not rank a trained network: list it in sparse_training.methods"),
        ("smallest_first_reinitialise", {}, "not ending in _layerwise_shuffle or _reinitialise"),
        ("smallest_first", {"power": "two"}, "option 'power': Input should be a valid integer, got 'two'"),
        ("smallest_first", {"powr": 2}, "'powr' is no option of method"),
    ],
)
def test_a_users_method_that_cannot_run_is_refused(user, name, options, text):
    name = f"{user}:{name}"
    section = {"methods": [name], **({"options": {name: options}} if options else {})}
    assert text in only_fault(values(pruning=section, fine_tuning={"methods": []}))


@pytest.mark.parametrize("name", [*pruning.names(), "pkg.module:function2", "a_b:c__d", "a.b:c_layerwise_shuffle"])
def test_a_token_is_a_file_name_and_leads_back_to_its_method(name):
    token = pruning.method_token(name)
    assert not set(token) & set(":/{}.*? ")
    assert pruning.method_name(token) == name
    assert ":" in name or token == name


def test_tokens_of_distinct_methods_are_distinct():
    names = ["a.b:c", "a_b:c", "a:b_c", "a.b.c:d", "a.b:c_d", "magnitude"]
    assert len({pruning.method_token(name) for name in names}) == len(names)


def test_a_configuration_of_user_methods_reads_their_module(tmp_path):
    line = only_fault(values(pruning={"methods": ["no_such_module_x:f"]}, fine_tuning={"methods": []}))
    assert "no_such_module_x" in line
    assert "PYTHONPATH" in line
    assert config.load(values()).pruning.methods == ["magnitude"]
