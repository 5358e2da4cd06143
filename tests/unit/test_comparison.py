"""The comparison: hand-computed means, ranks and thresholds, its pages, and the published numbers beside it."""

from __future__ import annotations

import io
import math
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from gwprune.__main__ import main
from gwprune.tables.comparison import comparison_rows, comparison_threshold_rows, in_words, source_of
from gwprune.tables.files import write_table
from gwprune.tables.published import published_rows
from gwprune.tables.rendering import Cell, Sheet, comparison_pages, html, markdown
from gwprune.tables.schemas import table_schema
from gwprune.tables.terminal import sheet_views

from .helpers_tables import FACTS, interval, row_of, table_of

ASKED = {"one_shot": [0.5, 0.9]}
D = 100


def point(method: str, stage: str, sparsity: float, seed: int, accuracy: float, **changes) -> list[dict]:
    """Rows of table `sweep` of one network, one a split; only the test split has this accuracy."""
    nonzeros = D - math.ceil(sparsity * D)
    counts = {"nonzeros": nonzeros, "multiply_adds": 10 * nonzeros, "epochs": 30.0, "top5_accuracy": 99.0, **changes}
    test = row_of("sweep", method=method, stage=stage, sparsity=sparsity, seed=seed, accuracy=accuracy, **counts)
    other = {**test, "accuracy": 1.0, "loss": 9.0, "top5_accuracy": 2.0}
    return [test, {**other, "split": "train"}, {**other, "split": "val"}]


def compared(*points: list[dict], asked=ASKED) -> dict[tuple, dict]:
    sweep = table_of("sweep", [row for rows in points for row in rows])
    rows = comparison_rows(sweep, FACTS, asked, "here")
    table_of("comparison", rows)
    assert all(set(row) == set(table_schema("comparison").names) for row in rows)
    return {(row["method"], row["stage"], row["sparsity"]): row for row in rows}


def dense(*seeds: int, accuracies=(90.0, 92.0), method: str = "magnitude") -> list[dict]:
    return [row for seed in seeds for row in point(method, "one_shot", 0.0, seed, accuracies[seed])]


# --- the numbers --------------------------------------------------------------------------------------------


def test_two_seeds_by_hand():
    rows = compared(
        dense(0, 1),
        point("magnitude", "one_shot", 0.9, 0, 80.0, multiply_adds=190, epochs=20.0, loss=0.25),
        point(
            "magnitude", "one_shot", 0.9, 1, 86.0, multiply_adds=210, epochs=30.0, empty_layers=2, top5_accuracy=97.0
        ),
    )
    assert rows["magnitude", "one_shot", 0.9] == {
        **FACTS,
        **{"run": "a", "method": "magnitude", "stage": "one_shot", "sparsity": 0.9, "seeds": 2, "source": "here"},
        "accuracy_mean": 83,
        "accuracy_std": pytest.approx(math.sqrt(18)),  # (9 + 9) / (2 - 1)
        "top5_mean": 98,
        "loss_mean": 0.375,
        "dense_accuracy_mean": 91,
        "compression": pytest.approx(10),
        "dense_multiply_adds": 1000,
        "multiply_adds": 200,
        "speedup": 5,
        "epochs": 25,
        "empty_layers": 2,
        **{"rank": 1, "ranked": 1, "stage_rank": 1},
    }
    dense_row = rows["magnitude", "one_shot", 0.0]
    assert (dense_row["compression"], dense_row["speedup"]) == (1, 1)
    assert dense_row["accuracy_mean"] == dense_row["dense_accuracy_mean"]


def test_ranks_are_by_mean_accuracy_at_the_same_sparsity_and_ties_share_the_better_one():
    accuracies = {"magnitude": (80, 90), "lamp": (85, 85), "random": (60, 60), "obd": (89, 89)}
    points = [dense(0, 1)]
    for method, values in accuracies.items():
        points += [point(method, "one_shot", 0.9, seed, value) for seed, value in enumerate(values)]
    points += [point("imp", "trained", 0.9, seed, 70.0) for seed in (0, 1)]
    rows = compared(*points, point("random", "one_shot", 0.5, 0, 99.0), point("random", "one_shot", 0.5, 1, 99.0))
    ranks = {key[0]: (row["rank"], row["stage_rank"], row["ranked"]) for key, row in rows.items() if key[2] == 0.9}
    expected = {"obd": (1, 1, 5), "magnitude": (2, 2, 5), "lamp": (2, 2, 5), "imp": (4, 1, 5), "random": (5, 4, 5)}
    assert ranks == expected
    assert (rows["random", "one_shot", 0.5]["rank"], rows["random", "one_shot", 0.5]["ranked"]) == (1, 1)


def test_means_that_differ_by_rounding_alone_are_tied():
    tenths = (0.1, 0.2, 0.3)  # 0.1 + 0.2 + 0.3 depends on the order
    points = [row for seed in range(3) for row in dense(seed, accuracies=(90.0,) * 3)]
    for method, values in (("magnitude", tenths), ("lamp", tenths[::-1])):
        points += [row for seed, v in enumerate(values) for row in point(method, "one_shot", 0.9, seed, 1e5 * v)]
    rows = compared(points)
    assert {rows[method, "one_shot", 0.9]["rank"] for method in ("magnitude", "lamp")} == {1}


def test_only_sparsities_that_every_seed_has_are_compared_and_one_shot_ones_that_were_asked_for():
    rows = compared(
        dense(0, 1),
        *(point("magnitude", "one_shot", s, seed, 80.0) for s in (0.5, 0.7) for seed in (0, 1)),  # 0.7: bisection
        point("magnitude", "one_shot", 0.9, 0, 80.0),
        *(point("imp", "trained", s, seed, 80.0) for s in (0.2, 0.36) for seed in (0, 1)),
        point("imp", "trained", 0.488, 1, 80.0),
        point("snip", "trained", 0.8, 1, 80.0),  # trained with one seed only
    )
    assert set(rows) == {
        ("magnitude", "one_shot", 0.0),
        ("magnitude", "one_shot", 0.5),
        ("imp", "trained", 0.2),
        ("imp", "trained", 0.36),
        ("snip", "trained", 0.8),
    }
    assert rows["snip", "trained", 0.8]["seeds"] == 1
    assert rows["snip", "trained", 0.8]["dense_accuracy_mean"] == 92.0  # of its own seed


def test_a_single_seed_deviates_by_nothing_and_a_network_without_a_weight_is_infinitely_fast():
    rows = compared(dense(0), point("magnitude", "one_shot", 0.9, 0, 10.0, nonzeros=0, multiply_adds=0, empty_layers=3))
    row = rows["magnitude", "one_shot", 0.9]
    assert (row["compression"], row["speedup"], row["empty_layers"]) == (math.inf, math.inf, 3)
    assert (row["seeds"], row["accuracy_std"]) == (1, 0.0)


def test_a_loss_that_is_not_finite_stays_so():
    rows = compared(
        dense(0, 1), *(point("lamp", "one_shot", 0.9, i, 10.0, loss=x) for i, x in ((0, math.nan), (1, 1.0)))
    )
    assert math.isnan(rows["lamp", "one_shot", 0.9]["loss_mean"])


def test_a_seed_without_its_dense_network_is_named():
    with pytest.raises(ValueError, match=r"no dense network \(one_shot at sparsity 0\) for seed\(s\) \[1\]"):
        compared(dense(0), point("snip", "trained", 0.9, 1, 80.0))


def bracket(seed: int, threshold: float, upper: float, reached: bool = True, method: str = "magnitude") -> dict:
    ends = interval("threshold", threshold, threshold, upper)
    return row_of("empirical", seed=seed, method=method, reached=reached, **ends)


def over_seeds(*brackets: dict) -> list[dict]:
    return comparison_threshold_rows(table_of("empirical", list(brackets)), FACTS)


def test_thresholds_over_seeds_by_hand():
    (row,) = over_seeds(bracket(0, 0.90, 0.91), bracket(1, 0.94, 0.99), bracket(2, 0.98, 0.985))
    assert set(row) == set(table_schema("comparison_thresholds").names)
    assert (row["seeds"], row["reached_seeds"]) == (3, 3)
    assert row["threshold_mean"] == pytest.approx(0.94)
    assert row["threshold_std"] == pytest.approx(0.04)  # sqrt((0.04^2 + 0.04^2) / 2)
    assert (row["threshold_lower"], row["threshold_upper"]) == (0.90, 0.99)
    (single,) = over_seeds(bracket(0, 0.9, 0.91))
    assert (single["threshold_mean"], single["threshold_std"]) == (0.9, None)


@pytest.mark.parametrize("unknown", [(0.94, 1.0, False), (0.9, 0.951, True)])
def test_a_seed_without_a_known_threshold_leaves_no_mean(unknown):
    (row,) = over_seeds(bracket(0, 0.92, 0.93), bracket(1, *unknown))
    assert (row["seeds"], row["reached_seeds"]) == (2, 1 + unknown[2])
    assert row["threshold_mean"] is row["threshold_std"] is None
    assert (row["threshold_lower"], row["threshold_upper"]) == (min(0.92, unknown[0]), unknown[1])


def test_words_and_sources():
    assert in_words("fc", {}) == "fc"
    assert in_words("fc", {"hidden": [3, 2], "bias": True}) == "fc(bias=True, hidden=[3, 2])"
    origin = {"gwprune": "0.1.0", "git_commit": "0123456789abcdef+", "config_hash": "fe"}
    assert source_of(origin) == "measured: gwprune 0.1.0, commit 0123456789ab, local changes, configuration fe"
    assert source_of({"gwprune": "0.1.0"}) == "measured: gwprune 0.1.0"


# --- the pages ----------------------------------------------------------------------------------------------


def sample() -> tuple[list[dict], list[dict]]:
    points = [dense(0, 1)]
    for seed in (0, 1):
        points += [
            point("magnitude", "one_shot", 0.5, seed, 88.0 + seed),
            point("lamp", "one_shot", 0.5, seed, 87.0),
            point("magnitude", "fine_tuned", 0.9, seed, 89.0, epochs=35.0),
            point("imp", "trained", 0.9, seed, 85.0 + seed, epochs=210.0, empty_layers=seed),
            point("imp", "trained", 0.5, seed, 89.5, epochs=60.0),
        ]
    thresholds = over_seeds(
        *(bracket(seed, 0.9 + 0.02 * seed, 0.94) for seed in (0, 1)),
        *(bracket(seed, 0.0, 0.5, method="lamp") for seed in (0, 1)),
        *(bracket(seed, 0.98, 1.0, reached=False, method="obd") for seed in (0, 1)),
    )
    return list(compared(*points).values()), thresholds


def body(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_markdown_says_every_number_and_its_columns_are_aligned():
    text = markdown(comparison_pages(*sample()))
    assert "## fc on digits, l1 0.0001" in text
    assert "run a; 2 seed(s); dense network: 91.00 ± 1.41 % on the test split, 1,000 multiply-adds; here" in text
    rows = body(text)
    assert rows[0] == ["stage", "method", "0.5", "0.9", "epochs"]
    assert rows[2:7] == [
        ["", "compression", "x2", "x10", ""],
        ["one_shot", "magnitude", "88.50 ± 0.71 (2)", "-", "30"],
        ["one_shot", "lamp", "87.00 ± 0.00 (3)", "-", "30"],
        ["fine_tuned", "magnitude", "-", "**89.00 ± 0.00 (1)**", "35"],
        ["trained", "imp", "**89.50 ± 0.00 (1)**", "85.50 ± 0.71 (2)†", "60 to 210"],
    ]
    assert ["fine_tuned", "magnitude", "-", "x10"] in rows
    assert [row[2:] for row in rows[-3:]] == [["0.91 ± 0.01 [0.9000, 0.9400]"], ["< 0.5000"], [">= 0.9800"]]
    for sheet in re.split(r"^###.*$", text, flags=re.MULTILINE)[1:]:
        assert len({len(line) for line in sheet.splitlines() if line.startswith("|")}) == 1


def test_many_sparsities_are_cut_into_sheets_without_losing_one():
    sparsities = [round(0.05 * i, 2) for i in range(1, 20)]
    points = [point("magnitude", "one_shot", s, 0, 80.0) for s in sparsities]
    rows = compared(dense(0), *points, asked={"one_shot": sparsities})
    (page,) = comparison_pages(rows.values(), [])
    accuracy = [sheet for sheet in page.sheets if sheet.title.startswith("test accuracy")]
    assert [float(name) for sheet in accuracy for name in sheet.header[2:-1]] == sparsities
    assert all("(1)" in cell.text and not cell.bold for sheet in accuracy for cell in list(sheet.rows)[1][2:-1])


def test_html_holds_the_same_cells_and_is_well_formed():
    pages = comparison_pages(*sample())
    text = html(pages).removeprefix("<!DOCTYPE html>").replace('<meta charset="utf-8">', "")
    root = ElementTree.fromstring(text)
    cells = ["".join(cell.itertext()) for cell in root.iter() if cell.tag in ("td", "th")]
    sheets = [sheet for page in pages for sheet in page.sheets]
    assert cells == [
        text for sheet in sheets for text in (*sheet.header, *(cell.text for row in sheet.rows for cell in row))
    ]
    rows, thresholds = sample()
    assert "<script>" not in html(comparison_pages([{**row, "network": "<script>"} for row in rows], thresholds))


def test_the_best_is_bold_on_the_terminal():
    console = Console(width=150, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(*sheet_views(comparison_pages(*sample())[0].sheets[0], console.width))
    bold = re.findall(r"\x1b\[1m\s*([^\x1b]* ± [^\x1b]*)\x1b", console.file.getvalue())
    assert [text.strip() for text in bold] == ["89.00 ± 0.00 (1)", "89.50 ± 0.00 (1)"]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_sheet_that_is_too_wide_is_folded_and_no_cell_is_cut(columns):
    header = ["stage", "method", *(f"tolerance rule{i}" for i in range(7))]
    rows = [[Cell("fine_tuned"), Cell(f"method{j}"), *(Cell(f"{i}.{j} " + "x" * 14) for i in range(7))] for j in "ab"]
    sheet = Sheet("a title", header, [rows[:1], rows[1:]])
    console = Console(width=columns, file=io.StringIO())
    views = list(sheet_views(sheet, columns))
    console.print(*views)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= columns
    assert len(views) == {80: 4, 120: 2, 200: 1}[columns]
    for view in views:
        assert [str(column.header) for column in view.columns][:2] == ["stage", "method"]
    places = [str(column.header) for view in views for column in view.columns[2:]]
    assert places == [f"tolerance\nrule{i}" for i in range(7)]
    assert all(text.count(cell.text) == 1 for row in rows for cell in row[2:])


def test_the_command_prints_the_comparison(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 1
    assert "tables/comparison.parquet does not exist; run the workflow first" in capsys.readouterr().err
    for name, rows in zip(("comparison", "comparison_thresholds"), sample(), strict=True):
        write_table(name, rows, tmp_path / f"tables/{name}.parquet", {})
    assert main(["compare", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for text in ("fc on digits, l1 0.0001", "88.50 ± 0.71 (2)", "60 to 210", "0.91 ± 0.01 [", "comparison.md"):
        assert text in output


# --- published numbers ---------------------------------------------------------------------------------------


def test_published_numbers_are_cited_in_range_and_not_doubled(tmp_path):
    rows = published_rows()
    assert len(rows) >= 40
    write_table("published", rows, tmp_path / "published.parquet", {})  # refuses wrong columns, types, doubled keys
    for row in rows:
        assert re.search(r"arXiv:\d{4}\.\d{5}$", row["citation"]), row
        assert row["table_in_source"]
        assert row["procedure"]
        assert 0 <= row["sparsity"] < 1
        assert (row["method"] == "dense") == (row["sparsity"] == 0)
        assert 10 < row["accuracy"] < 100
        assert re.fullmatch(r"(std \d+\.\d+)?", row["spread"])
        assert row["seeds"] >= 0
        assert row["seeds"] != 1 or not row["spread"]


def test_published_accuracy_falls_with_sparsity_within_a_series():
    series: dict[tuple, list[tuple[float, float]]] = {}
    for row in published_rows():
        key = tuple(row[name] for name in ("citation", "table_in_source", "dataset", "network", "method", "procedure"))
        series.setdefault(key, []).append((row["sparsity"], row["accuracy"]))
    for key, points in series.items():
        accuracies = [accuracy for _, accuracy in sorted(points)]
        assert accuracies == sorted(accuracies, reverse=True), key


def test_published_rows_share_no_column_that_could_join_them_to_a_run():
    assert "run" not in table_schema("published").names
    assert "citation" not in table_schema("comparison").names
