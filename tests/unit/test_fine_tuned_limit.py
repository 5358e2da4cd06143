"""The fine-tuned limit: the search between trained networks, its job, and brackets that are no thresholds."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwprune.jobs import masked
from gwprune.jobs.job import Job, job
from gwprune.tables.files import read_table
from gwprune.tables.thresholds import (
    Criterion,
    bracket_text,
    criteria,
    empirical_rows,
    empirical_threshold,
    gap_text,
    limit_rows,
    next_sparsity,
    threshold_rows,
)
from gwprune.training.train import train

from .helpers_run import SmallRun
from .helpers_tables import interval, row_of, table_of

LOSS = Criterion("loss_tolerance", "batch_std", "train", "loss", 1, 1.0)
DENSE = {"train": {"loss": 0.5, "objective": 0.75}, "val": {"accuracy": 97.0}}


def point(losses: dict[float, float]) -> dict:
    """Sparsity -> split -> values, with the given training losses."""
    return {sparsity: {"train": {"loss": loss}} for sparsity, loss in losses.items()}


# --- the search between fine-tuned networks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({0.0: 0.5, 0.8: 0.9, 0.9: 1.1, 0.95: 3.0}, 0.85),  # between two asked ones
        ({0.0: 0.5, 0.8: 1.1, 0.9: 2.0}, 0.4),  # missed at the first: below it
        ({0.0: 0.5, 0.8: 0.9, 0.98: 1.0}, 0.99),  # met at the last: above it
        ({0.0: 0.5, 0.3: 1.1, 0.9: 0.9}, 0.15),  # the first miss counts
        ({0.0: 0.5, 0.8: 0.9, 0.81: 1.1}, None),  # narrow enough
        ({0.0: 0.5, 0.99: 0.9}, None),  # above it as well
    ],
)
def test_the_next_training_halves_the_bracket(losses, expected):
    assert next_sparsity(point(losses), [LOSS], 0.01) == expected


def test_the_next_training_is_that_of_the_first_criterion_whose_bracket_is_wide():
    wanted = [Criterion("loss_tolerance", str(limit), "train", "loss", 1, limit) for limit in (1.0, 2.0)]
    assert next_sparsity(point({0.0: 0.5, 0.8: 0.9, 0.805: 1.1, 0.9: 2.5}), wanted, 0.01) == 0.8525
    assert next_sparsity({}, [], 0.01) is None


@given(
    limit=st.floats(0.0, 0.999),
    asked=st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True),
    resolution=st.sampled_from([0.1, 0.01, 0.005, 0.001]),
)
def test_a_search_takes_as_many_trainings_as_halvings(limit, asked, resolution):
    known = {s: point({s: 0.5 if s <= limit else 2.0})[s] for s in (0.0, *(point / 1000 for point in asked))}
    before, further = empirical_threshold(known, LOSS), 0
    while (sparsity := next_sparsity(known, [LOSS], resolution)) is not None:
        assert sparsity not in known
        known[sparsity] = point({sparsity: 0.5 if sparsity <= limit else 2.0})[sparsity]
        further += 1
    after = empirical_threshold(known, LOSS)
    assert after.upper - after.lower <= resolution * (1 + 1e-6)
    assert after.lower <= limit
    assert limit < after.upper
    steps = round((before.upper - before.lower) * 1e6) / round(resolution * 1e6)
    assert further <= math.ceil(math.log2(max(steps, 1)))


# --- what is not known is not said ---------------------------------------------------------------------------


def test_the_control_adds_its_criteria_to_the_fine_tuned_stage_alone():
    def rows(stage: str, losses: dict[float, float]) -> list[dict]:
        return [row_of("sweep", stage=stage, split="train", sparsity=s, loss=loss) for s, loss in losses.items()]

    measured = [*rows("one_shot", {0.0: 0.5, 0.8: 1.5}), *rows("fine_tuned", {0.0: 0.1, 0.8: 0.7, 0.9: 0.9})]
    wanted = {("a", 0): criteria(DENSE, {"batch_std": 0.25}, [])[:1]}
    found = {
        (row["stage"], row["criterion"]): (row["threshold_lower"], row["threshold_upper"])
        for row in empirical_rows(table_of("sweep", measured), wanted)
    }
    assert found == {
        ("one_shot", "loss_tolerance"): (0.0, 0.8),
        ("fine_tuned", "loss_tolerance"): (0.8, 0.9),
        ("fine_tuned", "control_loss_tolerance"): (0.0, 0.8),
    }
    without = [row for row in measured if row["sparsity"] > 0]
    assert {row["criterion"] for row in empirical_rows(table_of("sweep", without), wanted)} == {"loss_tolerance"}


@pytest.mark.parametrize(
    ("lower", "upper", "reached", "known", "text"),
    [
        (0.8328, 0.8338, True, True, "[0.8328, 0.8338]"),
        (0.832801, 0.832811, True, True, "[0.83280, 0.83281]"),
        (0.85, 0.855, True, True, "[0.8500, 0.8550]"),
        (0.85, 0.9, True, True, "[0.8500, 0.9000]"),
        (0.85, 0.900001, True, False, "[0.8500, 0.9000]"),
        (0.0, 0.8, True, False, "< 0.8000"),
        (0.0, 0.001, True, True, "< 0.0010"),
        (0.98, 1.0, False, False, ">= 0.9800"),
    ],
)
def test_a_wide_or_open_bracket_is_no_threshold(lower, upper, reached, known, text):
    measured = row_of("empirical", reached=reached, **interval("threshold", lower, lower, upper))
    predicted = row_of("predictions", criterion="", **interval("threshold", 0.75, 0.7, 0.8))
    (row,) = threshold_rows(table_of("predictions", [predicted]), table_of("empirical", [measured]))
    assert (row["empirical"], row["gap"]) == ((lower, 0.75 - lower) if known else (None, None))
    assert (row["empirical_lower"], row["empirical_upper"]) == (lower, upper)
    assert bracket_text(lower, upper) == text


@pytest.mark.parametrize(
    ("width", "gap", "text"),
    [(0.000967, 0.01234, "+0.012"), (0.001, -0.0004, "-0.000"), (0.003125, 0.01234, "+0.012"),
     (0.005, 0.0174, "+0.017"), (0.05, 0.0174, "+0.02"), (0.00001, 0.0123456, "+0.01235"), (0.001, None, "-")],
)  # fmt: skip
def test_a_gap_has_no_more_decimals_than_its_bracket(width, gap, text):
    assert gap_text(gap, 0.9, 0.9 + width) == text


def test_the_two_limits_of_each_network_each_with_its_own_predictor():
    rows = [
        row_of("thresholds", seed=seed, predictor=predictor, operator=operator, stage=stage, criterion=criterion,
               predicted=predicted)
        for seed in (1, 0)
        for predictor, operator, predicted in (
            ("quadratic", "hessian", 0.1), ("width", "ggn", 0.2), ("width", "hessian", 0.3),
            ("statistical_dimension", "ggn", 0.4),
        )
        for stage, criterion in (("fine_tuned", "control_loss_tolerance"), ("one_shot", "loss_tolerance"))
    ]  # fmt: skip
    found = limit_rows(table_of("thresholds", rows), "magnitude")
    names = ("seed", "limit", "predictor", "operator", "predicted")
    assert [tuple(row[name] for name in names) for row in found] == [
        (seed, *line)
        for seed in (0, 1)
        for line in (
            ("one-shot", "width", "hessian", 0.3),
            ("fine-tuned", "statistical_dimension", "ggn", 0.4),
        )
    ]
    (alone,) = limit_rows(table_of("thresholds", rows[:1]), "magnitude")
    assert (alone["limit"], alone["predictor"], alone["predicted"], alone["gap"]) == ("fine-tuned", None, None, None)
    assert limit_rows(table_of("thresholds", rows), "random") == []


# --- the job ------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch) -> list[float]:
    """The share of removed weights at each epoch of training."""
    epochs: list[float] = []

    def watched(*args, mask, progress, **options):
        def note(record):
            epochs.append(round(float((~mask).double().mean()), 3))
            progress(record)

        return train(*args, mask=mask, progress=note, **options)

    monkeypatch.setattr(masked, "train", watched)
    return epochs


def bracket(run: SmallRun, path: Path, this: Job | None = None, method: str = "magnitude", **told) -> list[dict]:
    settings = {"points": str(path.with_suffix(".json")), **told}
    run.do("bracket", this, outputs={"sweep": str(path)}, settings=settings, method=method)
    return read_table("sweep", path).to_pylist()


def test_every_method_has_the_control_and_a_bracket_as_narrow_as_asked(run):
    tuned = {method: run.rows("sweep", method=method, stage="fine_tuned") for method in ("magnitude", "lamp")}
    own, other = ([row for row in rows if row["sparsity"] == 0] for rows in tuned.values())
    assert [row["split"] for row in own] == ["test", "train", "val"]
    assert other == [{**row, "method": "lamp"} for row in own]
    dense = run.rows("sweep", method="magnitude", stage="one_shot", sparsity=0.0)
    assert own != dense
    assert {(row["nonzeros"], row["epochs"]) for row in own} == {(dense[0]["nonzeros"], 5)}
    found = run.rows("empirical", stage="fine_tuned", criterion="control_loss_tolerance")
    assert len(found) == 2 * 2
    assert all(row["threshold_upper"] - row["threshold_lower"] <= 0.1 + 1e-9 for row in found)


def test_only_what_is_asked_for_and_not_known_is_trained(run, tmp_path, trained):
    path = tmp_path / "b.parquet"
    rows = bracket(run, path, method="lamp", epsilon_rules=["batch_std"])
    searched = sorted({row["sparsity"] for row in rows} - {0.0})
    assert len(trained) == len(set(trained)) == len(searched) > 0
    assert len(searched) <= math.ceil(math.log2(0.5 / 0.1))
    assert not {0.0, 0.5, 0.9} & set(trained)
    first = list(trained)
    narrower = bracket(run, path, method="lamp", epsilon_rules=["batch_std"], resolution=0.05)
    assert first == trained[: len(first)]
    assert len(trained) == len(first) + 1
    assert [row for row in narrower if row["sparsity"] in (0.0, *searched)] == rows


def test_a_search_that_was_interrupted_goes_on_at_its_epoch_with_the_same_rows(run, tmp_path, monkeypatch):
    recipe = {**run.run.fine_tuning(), "epochs": 2}
    expected = bracket(run, tmp_path / "whole.parquet", recipe=recipe)
    epochs, searched = [], {row["sparsity"] for row in expected}
    assert len(searched) > 1

    def signalled(*args, progress, **options):
        def count(record):
            epochs.append(record.epoch)
            if len(epochs) < 2 * len(searched):
                os.kill(os.getpid(), signal.SIGTERM)
            progress(record)

        return train(*args, progress=count, **options)

    monkeypatch.setattr(masked, "train", signalled)
    path = tmp_path / "cut" / "b.parquet"
    path.parent.mkdir()
    for _ in range(2 * len(searched) - 1):
        with pytest.raises(SystemExit) as caught, job(tmp_path / "a.log", **run.key, device="cpu") as this:
            bracket(run, path, this, recipe=recipe)
        assert caught.value.code == 75
        assert not path.exists()
    with job(tmp_path / "a.log", **run.key, device="cpu") as this:
        assert bracket(run, path, this, recipe=recipe) == expected
    assert epochs == [1, 2] * len(searched)
    assert {file.name for file in path.parent.iterdir()} == {"b.parquet", "b.json"}
