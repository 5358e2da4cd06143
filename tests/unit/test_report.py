"""The report: one page whose numbers are those of the tables."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gwprune.__main__ import main
from gwprune.jobs.report import build_report
from gwprune.tables.files import TableError, read_table, write_table
from gwprune.tables.thresholds import bracket_text, gap_text, limit_rows

from .helpers_tables import example, row_of

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Tables of a page (id -> rows of (text, value)), links, images and the ids that it has; refuses unclosed tags."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.links, self.images, self.ids, self.open, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.links += [own["href"]] if "href" in own else []
        self.images += [own["src"]] if "src" in own else []
        self.ids += [own["id"]] if "id" in own else []
        if tag == "table":
            self.rows = self.tables.setdefault(own.get("id", "table-files").removeprefix("table-"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", own.get("data-value", "")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            (text, value), row = self.rows[-1][-1], self.rows[-1]
            row[-1] = (text + data, value)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    origin = {"git_commit": "abc123+", "gwprune": "1.2", "device": ""}
    for name, table in example().items():
        write_table(name, table.to_pylist(), folder / f"tables/{name}.parquet", origin)
    write_table("costs", [row_of("costs", rule="train", seconds=7.25)], folder / "tables/costs.parquet", {})
    picture = folder / "figures/lenet/tradeoff.svg"
    picture.parent.mkdir(parents=True)
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    (folder / "mine.yaml").write_text("results: here # <script>alert()</script>\n")
    return folder


@pytest.fixture(scope="module")
def page(results) -> Page:
    return Page(build_report(results, results / "mine.yaml").read_text())


def test_it_opens_on_the_limits_and_they_are_those_of_the_tables(page, results):
    assert next(iter(page.tables)) == "limits"
    heads, *lines = page.tables["limits"]
    wanted = limit_rows(read_table("thresholds", results / "tables/thresholds.parquet"), "magnitude")
    assert len(wanted) == len(lines) == 8  # two limits of two seeds of two networks
    for row, line in zip(wanted, lines, strict=True):
        shown = dict(zip((text for text, _ in heads), line, strict=True))
        bracket = row["empirical_lower"], row["empirical_upper"]
        assert shown["network"] == (row["run"], row["run"])
        assert (shown["seed"][0], shown["limit"][0]) == (str(row["seed"]), row["limit"])
        assert shown["measured"] == (bracket_text(*bracket), str(bracket[0]))
        if row["predictor"] is None:
            assert [shown[name][0] for name in ("predicted by", "predicted", "interval", "gap")] == ["-"] * 4
            continue
        assert shown["predicted by"][0] == row["predictor"]
        assert shown["predicted"] == (f"{row['predicted']:.4f}", str(row["predicted"]))
        assert shown["interval"][0] == f"[{row['predicted_lower']:.4f}, {row['predicted_upper']:.4f}]"
        assert shown["gap"][0] == gap_text(row["gap"], *bracket)
    gaps = [abs(row["gap"]) for row in wanted if row["gap"] is not None and row["limit"] == "one-shot"]
    assert f"mean |gap| {sum(gaps) / len(gaps):.3f}" in page.text


def test_every_prediction_cost_and_dense_network_is_shown_with_its_number(page, results):
    predictions = read_table("predictions", results / "tables/predictions.parquet").to_pylist()
    heads, *lines = page.tables["predictions"]
    place = [text for text, _ in heads].index("predicted")
    assert sorted(float(line[place][1]) for line in lines) == sorted(row["threshold"] for row in predictions)
    sweep = read_table("sweep", results / "tables/sweep.parquet").to_pylist()
    dense = {
        (row["run"], str(row["seed"])): row["loss"]
        for row in sweep
        if (row["stage"], row["sparsity"], row["split"]) == ("one_shot", 0.0, "train")
    }
    heads, *lines = page.tables["dense-networks"]
    place = [text for text, _ in heads].index("train loss, nats")
    assert {(line[0][0], line[1][0]): float(line[place][1]) for line in lines} == dense
    costs = page.tables["what-jobs-cost-and-what-to-ask-for"][1]
    assert [cell[0] for cell in costs][:6] == ["train", "train", "1", "7.2", "7.2", "0.00"]
    assert float(costs[3][1]) == 7.25
    (spectrum, *_) = page.tables["spectra"][1:]
    assert [cell[0] for cell in spectrum[:3]] == ["fc5_l1", "0", "ggn"]
    assert spectrum[-1][0] == "0.400"


def test_methods_stand_as_in_the_comparison(page, results):
    texts = {text for row in page.tables["test-accuracy-at-each-sparsity"] for text, _ in row}
    assert {"one_shot", "magnitude", "random", "snip"} <= texts
    (row,) = [
        row
        for row in example()["comparison"].to_pylist()
        if (row["run"], row["method"], row["stage"], row["sparsity"]) == ("lenet", "random", "one_shot", 0.0)
    ]
    assert row["seeds"] == 2
    assert f"{row['dense_accuracy_mean']:.2f} ± " in page.text


def test_it_needs_no_other_file_and_its_links_lead_somewhere(page, results):
    assert [source[:26] for source in page.images] == ["data:image/svg+xml;base64,"]
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (results / link).exists(), link
    assert "tables/thresholds.parquet" in page.links
    text = (results / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(""", text)
    assert text.count("<script>") == 1  # the configuration's is no tag


def test_it_says_where_it_comes_from(page):
    assert "git checkout abc123\nmake report CONFIG=" in page.text
    assert "results: here # <script>alert()</script>" in page.text
    for term in ("batch_std", "epsilon", "bracket", "control", "quadratic model of the loss", "nats"):
        assert term in page.text


def test_tables_that_stand_alone_are_enough_and_a_run_without_control_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "holds nothing to report; run the workflow first" in capsys.readouterr().err
    rows = [row for row in example()["thresholds"].to_pylist() if row["stage"] == "one_shot"]
    write_table("thresholds", rows, tmp_path / "thresholds.parquet", {})
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/report.html\n"
    page = Page((tmp_path / "report.html").read_text())
    assert "The fine-tuned limit was not measured." in page.text
    assert [text for text, _ in page.tables["files"][1][:1]] == ["thresholds.parquet"]
    (tmp_path / "thresholds.parquet").write_bytes(b"")
    with pytest.raises(TableError, match=r"thresholds\.parquet is empty"):
        build_report(tmp_path)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_a_browser_opens_it_without_an_error_and_makes_the_headings_buttons(page, results):
    flags = ["--headless", "--no-sandbox", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, (results / "report.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "CONSOLE" not in done.stderr
    assert "<button>predicted by</button>" in done.stdout
