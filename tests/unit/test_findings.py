"""The tables of docs/findings.md, from rows written by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.findings import accuracy_table, agreement_table, prediction_tables, with_agreement
from benchmarks.two_limits import limits_table, order_table

from .helpers_tables import interval, row_of


def threshold(seed: int, predicted: tuple, empirical: tuple, **changes) -> dict:
    ends = {**interval("predicted", *predicted), **interval("empirical", *empirical)}
    return row_of("thresholds", run="net", seed=seed, gap=predicted[0] - empirical[0], **ends, **changes)


@pytest.mark.parametrize(
    ("predicted", "empirical", "expected"),
    [
        ((0.5, 0.4, 0.6), (0.55, 0.55, 0.56), True),
        ((0.5, 0.4, 0.6), (0.6, 0.6, 0.7), True),
        ((0.5, 0.4, 0.6), (0.61, 0.61, 0.7), False),
        ((0.5, 0.4, 0.6), (0.3, 0.3, 0.39), False),
    ],
)
def test_a_prediction_agrees_when_its_interval_meets_the_bracket(predicted, empirical, expected):
    assert with_agreement(pd.DataFrame([threshold(0, predicted, empirical)])).met.tolist() == [expected]


ROWS = pd.DataFrame(
    [
        threshold(0, (0.5, 0.4, 0.6), (0.55, 0.55, 0.56)),
        threshold(1, (0.5, 0.4, 0.6), (0.7, 0.7, 0.71)),
        threshold(0, (0.5, 0.4, 0.6), (0.9, 0.9, 0.91), method="random"),
        threshold(0, (0.5, 0.4, 0.6), (0.9, 0.9, 0.91), stage="fine_tuned"),
    ]
)


def test_agreement_counts_the_seeds_of_one_shot_magnitude_pruning_alone():
    assert "| `net` | `width` | hessian | 0.200 | 1 of 2, -0.125 |" in agreement_table(ROWS)


def test_every_seed_stands_beside_its_measurement():
    text = prediction_tables(ROWS)
    assert "| 0 | **measured** | 0.550 to 0.560 |" in text
    assert "`width`, hessian: 0.500 [0.400, 0.600] | -0.050 (inside) |" in text
    assert "`width`, hessian: 0.500 [0.400, 0.600] | -0.200 |" in text
    assert "0.900" not in text


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


def test_both_limits_of_a_network_stand_in_one_line_and_methods_in_their_orders():
    control = {"stage": "fine_tuned", "criterion": "control_loss_tolerance"}
    rows = [
        threshold(0, (0.5, 0.4, 0.6), (0.55, 0.55, 0.56)),
        threshold(0, (0.52, 0.52, 0.52), (0.55, 0.55, 0.56), predictor="quadratic"),
        threshold(0, (0.7, 0.6, 0.8), (0.75, 0.75, 1.0), predictor="statistical_dimension", **control),
        threshold(0, (0.53, 0.53, 0.53), (0.5, 0.5, 0.51), predictor="quadratic", method="lamp"),
    ]
    line = limits_table(pd.DataFrame(rows)).splitlines()[2]
    both = "0.550 to 0.560 | 0.500 [0.400, 0.600] | 0.520 [0.520, 0.520] | > 0.750 | 0.700 [0.600, 0.800] |"
    assert line.endswith(both)
    order = order_table(pd.DataFrame(rows)).splitlines()[2]
    assert order == "| `net` | `magnitude` 0.550 (0.520), `lamp` 0.500 (0.530) | `lamp`, `magnitude` |"
