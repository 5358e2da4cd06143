"""The tables of docs/findings.md, from rows written by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.findings import (
    CONFIG,
    accuracy_table,
    agreement_table,
    budget_table,
    draw,
    limits_table,
    measured,
    order_table,
    recipe,
    unrest,
)
from gwprune.config.loading import load_file
from gwprune.config.runs import expand

from .helpers_tables import interval, row_of

RECIPES = {
    "net": {"network": "net, l1 0.1", "l1": 0.1, "budget": (5, 0.02)},
    "net_long": {"network": "net, l1 0.1", "l1": 0.1, "budget": (20, 0.02)},
}
CONTROL = {"stage": "fine_tuned", "criterion": "control_loss_tolerance"}


def threshold(predicted: tuple, empirical: tuple, **changes) -> dict:
    ends = {**interval("predicted", *predicted), **interval("empirical", *empirical)}
    return row_of("thresholds", **{"run": "net", "seed": 0, "gap": predicted[0] - empirical[0], **ends, **changes})


def rows_of(*rows: dict) -> pd.DataFrame:
    return measured(pd.DataFrame(rows), RECIPES)


@pytest.mark.parametrize(
    ("predicted", "empirical", "met", "off"),
    [
        ((0.5, 0.4, 0.6), (0.55, 0.55, 0.56), True, -0.05),
        ((0.5, 0.4, 0.6), (0.45, 0.45, 0.55), True, 0),
        ((0.5, 0.4, 0.6), (0.6, 0.6, 0.7), True, -0.1),
        ((0.5, 0.4, 0.6), (0.61, 0.61, 0.7), False, -0.11),
        ((0.5, 0.4, 0.6), (0.3, 0.3, 0.39), False, 0.11),
    ],
)
def test_a_prediction_agrees_when_its_interval_meets_the_bracket(predicted, empirical, met, off):
    (row,) = rows_of(threshold(predicted, empirical)).itertuples()
    assert (row.met, row.off) == (met, pytest.approx(off))


def test_agreement_is_told_per_limit_and_an_open_bracket_has_none():
    rows = rows_of(
        threshold((0.5, 0.4, 0.6), (0.55, 0.55, 0.56)),
        threshold((0.5, 0.4, 0.6), (0.7, 0.7, 0.71), seed=1),
        threshold((0.5, 0.4, 0.6), (0.3, 0.3, 0.31), **CONTROL),
        threshold((0.5, 0.4, 0.6), (0.9, 0.9, 1.0), seed=1, **{**CONTROL, "gap": None}),
    )
    line = agreement_table(rows).splitlines()[2]
    assert line == ("| l1 | `width`, hessian | 0.200 | 0.125 (-0.125), 1 of 2 |  | 0.190 (+0.190), 0 of 1 |  |")


REST = pd.Series({("net", 0): 0.2, ("net_long", 0): 0.3})
EPSILONS = pd.Series({("net", 0, "batch_std"): 0.1, ("net_long", 0, "batch_std"): 0.1})


def test_both_limits_of_a_network_stand_in_one_line_and_methods_in_their_orders(tmp_path):
    rows = rows_of(
        threshold((0.5, 0.4, 0.6), (0.55, 0.55, 0.56)),
        threshold((0.52, 0.52, 0.52), (0.55, 0.55, 0.56), predictor="quadratic"),
        threshold((0.7, 0.6, 0.8), (0.75, 0.75, 1.0), predictor="statistical_dimension", **CONTROL),
        threshold((0.53, 0.53, 0.53), (0.5, 0.5, 0.51), predictor="quadratic", method="lamp"),
    )
    magnitude = rows[rows.method == "magnitude"]
    assert limits_table(magnitude, REST, EPSILONS).splitlines()[2] == (
        "| net, l1 0.1 | 0 | batch_std | 2.0 | [0.5500, 0.5600] | 0.5000 [0.4000, 0.6000] | 0.5200 [0.5200, 0.5200]"
        " | >= 0.7500 | 0.7000 [0.6000, 0.8000] |"
    )
    assert order_table(rows).splitlines()[2] == (
        "| net, l1 0.1 | `magnitude` 0.550 (0.520), `lamp` 0.500 (0.530) | `lamp`, `magnitude` |"
    )
    draw(magnitude, tmp_path / "limits.svg")
    text = (tmp_path / "limits.svg").read_text()
    assert all(name in text for name in ("net, l1 0.1, seed 0", "one-shot", "fine-tuned", "quadratic"))


def test_budgets_of_one_network_stand_below_each_other():
    objective = {**CONTROL, "criterion": "control_objective_tolerance"}
    rows = rows_of(*(
        threshold((0.7, 0.6, 0.8), bracket, run=run, predictor="statistical_dimension", **criterion)
        for run, low in (("net", 0.7), ("net_long", 0.8))
        for bracket, criterion in (((low, low, low + 0.01), CONTROL), ((low + 0.1, low + 0.1, 1.0), objective))
    ))  # fmt: skip
    assert budget_table(rows, REST, EPSILONS).splitlines()[2:] == [
        "| net, l1 0.1 | 0 | 5 | 0.02 | 2.0 | [0.7000, 0.7100] | >= 0.8000 | 0.7000 [0.6000, 0.8000] |",
        "| net, l1 0.1 | 0 | 20 | 0.02 | 3.0 | [0.8000, 0.8100] | >= 0.9000 | 0.7000 [0.6000, 0.8000] |",
    ]
    assert budget_table(rows[rows.run == "net"], REST, EPSILONS) == ""


def test_unrest_is_the_fall_of_the_objective_from_the_dense_network_to_the_control():
    rows = [
        row_of("sweep", run="net", seed=0, stage=stage, sparsity=sparsity, split=split, objective=objective)
        for stage, sparsity, split, objective in (
            ("one_shot", 0.0, "train", 0.5), ("one_shot", 0.0, "test", 0.9), ("one_shot", 0.5, "train", 0.6),
            ("fine_tuned", 0.0, "train", 0.3), ("fine_tuned", 0.5, "train", 0.1),
        )
    ]  # fmt: skip
    assert unrest(pd.DataFrame(rows)).to_dict() == {("net", 0): pytest.approx(0.2)}


def test_networks_of_the_study_are_told_apart_by_what_they_are_and_not_by_their_budget():
    recipes = {name: recipe(run) for name, run in expand(load_file(CONFIG)).items()}
    short, long = recipes["fc5_1_epoch_l1-3e-4"], recipes["fc5_20_epochs_l1-3e-4"]
    assert short["network"] == long["network"] == "fc5, l1 0.0003"
    assert (short["budget"], long["budget"]) == ((1, 0.02), (20, 0.02))
    assert recipes["fc5_long_l1-1e-4"]["network"] == "fc5, l1 0.0001, 30 epochs"
    assert recipes["vit_plain_l1-0"]["network"] == "vit (width 36, depth 3), no l1"


def test_accuracies_of_all_recipes_stand_in_one_table_with_the_best_in_bold():
    values = [
        ("fine_tuned", "magnitude", 1e-4, 0.9, 85.0, 15),
        ("trained", "imp", 0.0, 0.9, 86.0, 20),
        ("trained", "imp", 0.0, 0.5, 99.0, 10),
        ("one_shot", "magnitude", 0.0, 0.9, 40.0, 10),
    ]
    names = ("stage", "method", "l1", "sparsity", "accuracy_mean", "epochs")
    rows = [row_of("comparison", **dict(zip(names, row, strict=True))) for row in values]
    text = accuracy_table(pd.DataFrame(rows), "fc")
    assert "0.5 |" not in text.splitlines()[0]
    assert "| trained | `imp` | 0 | 20 | **86.0 ± 0.5** |" in text
    assert "| fine_tuned | `magnitude` | 0.0001 | 15 | 85.0 ± 0.5 |" in text
