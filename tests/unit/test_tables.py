"""Result tables: declared columns, refusals that name the file, round trips, joining of parts."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gwprune.tables.files import TableError, combine, grouped, read_table, write_table
from gwprune.tables.schemas import RUN_TABLES, TABLES, documentation, key_columns, table_schema

from .helpers_tables import row_of, table_of

# Section 5 of the design: key columns | value columns.
DESIGN = """
training: run seed epoch | train_loss train_accuracy val_loss val_accuracy lr seconds
spectra: run seed operator probe rule | node weight
width_curves: run seed operator epsilon_rule sparsity | pruned_norm width width_lower width_upper
sweep: run seed method stage sparsity split | nonzeros empty_layers multiply_adds epochs pruned_norm loss objective
    accuracy top5_accuracy
predictions: run seed method predictor operator epsilon_rule criterion | epsilon dimension steps probes threshold
    threshold_lower threshold_upper
empirical: run seed method stage criterion epsilon_rule | threshold threshold_lower threshold_upper reached
thresholds: run seed predictor operator epsilon_rule method stage criterion | predicted predicted_lower predicted_upper
    empirical empirical_lower empirical_upper gap
comparison: network dataset run l1 method stage sparsity | seeds accuracy_mean accuracy_std top5_mean loss_mean
    dense_accuracy_mean compression dense_multiply_adds multiply_adds speedup epochs empty_layers rank ranked stage_rank
    source
comparison_thresholds: network dataset run l1 method stage criterion epsilon_rule | seeds reached_seeds threshold_mean
    threshold_std threshold_lower threshold_upper
published: citation table_in_source dataset network method procedure sparsity | accuracy spread seeds note
costs: run seed rule job | seconds max_rss_mb cpu_seconds
"""
LINES = re.findall(r"^(\w+): ([^|]+)\|([^:]+)$", DESIGN, re.MULTILINE)
COLUMNS = {name: (keys.split(), values.split()) for name, keys, values in LINES}
# What is no double.
STRINGS = """run operator rule epsilon_rule method stage split predictor criterion job network dataset source citation
    table_in_source procedure spread note"""
INTEGERS = """seed epoch probe nonzeros empty_layers multiply_adds dimension steps probes seeds reached_seeds rank
    ranked stage_rank"""
KINDS = ((STRINGS, pa.string()), (INTEGERS, pa.int64()), ("reached", pa.bool_()))
NULLABLE = {"thresholds": ("empirical", "gap"), "comparison_thresholds": ("threshold_mean", "threshold_std")}
TYPES = {name: kind for names, kind in KINDS for name in re.findall(r"\w+", names)}

PROVENANCE = {"gwprune": "0.1", "device": "cpu"}


def curve(run: str = "a", seed: int = 0, sparsity: float = 0.5, **changes) -> dict:
    """A row of table `width_curves`, the one that the tests use."""
    return {**row_of("width_curves", run=run, seed=seed, sparsity=sparsity), **changes}


def write(rows: list[dict], path: Path, name: str = "width_curves") -> pa.Table:
    return write_table(name, rows, path, PROVENANCE)


# --- what is declared ---------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_design():
    assert list(TABLES) == list(COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_keys_and_types_are_those_of_the_design(name):
    keys, values = COLUMNS[name]
    types = {**TYPES, "multiply_adds": pa.float64()} if name == "comparison" else TYPES  # a mean there
    assert table_schema(name) == pa.schema(
        [
            pa.field(column, types.get(column, pa.float64()), nullable=column in NULLABLE.get(name, ()))
            for column in keys + values
        ]
    )
    assert key_columns(name) == keys


def test_only_the_published_numbers_belong_to_no_run():
    assert set(TABLES) - set(RUN_TABLES) == {"published"}


def test_an_unknown_table_is_named_with_the_known_ones():
    with pytest.raises(KeyError, match=r"'sweeps'.*training.*sweep"):
        table_schema("sweeps")


def test_the_documentation_describes_every_table_and_column():
    sections = re.split(r"^### ", documentation(), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [f"`tables/{name}.parquet`" for name in COLUMNS]
    for (keys, values), section in zip(COLUMNS.values(), sections, strict=True):
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]
        assert [row[0] for row in cells] == [f"`{key}` (key)" for key in keys] + [f"`{value}`" for value in values]
        assert all(len(row) == 4 and row[3] for row in cells)


# --- writing ------------------------------------------------------------------------------------------------


def test_rows_come_back_sorted_by_key_whatever_their_order_was(tmp_path):
    rows = [curve(run, seed, sparsity) for run in "ba" for seed in (10, 2) for sparsity in (0.9, 0.10, 0.5)]
    write(rows, tmp_path / "t.parquet")
    read = read_table("width_curves", tmp_path / "t.parquet").to_pylist()
    assert read == sorted(rows, key=lambda row: (row["run"], row["seed"], row["sparsity"]))
    assert [row["seed"] for row in read] == [2, 2, 2, 10, 10, 10] * 2


def test_the_table_that_is_returned_is_the_one_in_the_file(tmp_path):
    returned = write([curve(sparsity=0.9), curve(sparsity=0.1)], tmp_path / "t.parquet")
    assert returned.equals(read_table("width_curves", tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    "rows", [[], [dict(reversed(curve().items()))], [curve(width=float("inf"), width_lower=float("nan"))]]
)
def test_rows_come_back_whatever_they_hold(tmp_path, rows):
    write(rows, tmp_path / "t.parquet")
    table = read_table("width_curves", tmp_path / "t.parquet")
    names = table_schema("width_curves").names
    assert table.schema.names == names
    assert repr(table.to_pylist()) == repr([{name: row[name] for name in names} for row in rows])  # NaN is not NaN


def test_provenance_stands_in_the_metadata_of_the_schema(tmp_path):
    write([curve()], tmp_path / "t.parquet")
    metadata = pq.read_schema(tmp_path / "t.parquet").metadata
    expected = {b"gwprune.table": b"width_curves", b"gwprune.gwprune": b"0.1", b"gwprune.device": b"cpu"}
    assert {key: value for key, value in metadata.items() if key.startswith(b"gwprune.")} == expected


def refused(rows: list[dict], path: Path, name: str = "width_curves") -> str:
    """The message of the refusal; nothing may be left on the disk."""
    with pytest.raises(TableError) as caught:
        write(rows, path, name)
    assert list(path.parent.iterdir()) == []
    assert str(caught.value).startswith(f"{path}: ")
    assert name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("lacks", "adds", "named"),
    [("width_lower", {}, "width_lower"), ("", {"colour": "red"}, "colour"), ("width", {"widths": 1}, "width, widths")],
)
def test_missing_and_unknown_columns_are_named(tmp_path, lacks, adds, named):
    odd = {name: value for name, value in curve(sparsity=0.1).items() if name != lacks} | adds
    assert refused([curve(), odd], tmp_path / "t.parquet").endswith(f"column(s) {named}")


@pytest.mark.parametrize("column", ["run", "seed", "width"])
def test_none_is_refused(tmp_path, column):
    assert refused([curve(**{column: None})], tmp_path / "t.parquet").endswith(f"has no value for {column}")


def test_a_threshold_that_is_not_known_is_null_and_its_ends_are_not(tmp_path):
    row = row_of("thresholds", empirical=None, gap=None)
    write([row], tmp_path / "t.parquet", "thresholds")
    assert read_table("thresholds", tmp_path / "t.parquet").to_pylist() == [row]
    (tmp_path / "t.parquet").unlink()
    cut = {**row, "empirical_upper": None}
    assert refused([cut], tmp_path / "t.parquet", "thresholds").endswith("has no value for empirical_upper")


@pytest.mark.parametrize(
    ("column", "value"),
    [("run", 3), ("seed", "0"), ("seed", 1.5), ("seed", True), ("seed", 2**63), ("width", "0.5"), ("width", [0.5])],
)
def test_a_value_of_wrong_type_is_refused(tmp_path, column, value):
    refused([curve(sparsity=0.1), curve(**{column: value})], tmp_path / "t.parquet")


def test_a_doubled_key_is_refused(tmp_path):
    rows = [curve(), curve(sparsity=0.1), curve(width=0.25)]
    message = refused(rows, tmp_path / "t.parquet")
    assert message.endswith("agree in all of run, seed, operator, epsilon_rule, sparsity")


def test_a_spectrum_may_hold_a_node_twice(tmp_path):
    row = {"run": "a", "seed": 0, "operator": "ggn", "probe": 0, "rule": "gauss", "node": 0.0, "weight": 0.5}
    write([row, row], tmp_path / "t.parquet", "spectra")
    assert read_table("spectra", tmp_path / "t.parquet").to_pylist() == [row, row]


def test_a_refused_table_keeps_the_old_file(tmp_path):
    path = tmp_path / "t.parquet"
    write([curve()], path)
    with pytest.raises(TableError):
        write([curve(), curve()], path)
    assert read_table("width_curves", path).to_pylist() == [curve()]


# --- reading ------------------------------------------------------------------------------------------------


def unreadable(path: Path, name: str = "width_curves") -> str:
    with pytest.raises(TableError) as caught:
        read_table(name, path)
    assert str(caught.value).startswith(f"{path} ")
    return str(caught.value)


def test_a_missing_file_and_one_of_no_bytes_are_named(tmp_path):
    unreadable(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").touch()
    assert "zero bytes" in unreadable(tmp_path / "t.parquet")


def test_a_file_that_was_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write([curve(sparsity=i / 100) for i in range(100)], path)
    content = path.read_bytes()
    for length in [1, 4, 8, *range(12, len(content), 97), len(content) - 4, len(content) - 1]:
        path.write_bytes(content[:length])
        unreadable(path)


@pytest.mark.parametrize("content", [b"run,seed\na,0\n", b"PAR1", b"PAR1" * 10, b"\x00" * 1000])
def test_a_foreign_file_is_named(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    unreadable(tmp_path / "t.parquet")


def test_another_table_is_named_with_found_and_expected_columns(tmp_path):
    write([curve()], tmp_path / "t.parquet")
    message = unreadable(tmp_path / "t.parquet", "costs")
    assert "found run, seed, operator, epsilon_rule, sparsity" in message
    assert "expected run, seed, rule, job, seconds" in message


@pytest.mark.parametrize("change", ["dropped", "added", "renamed", "reordered", "retyped"])
def test_a_file_of_an_older_schema_is_named(tmp_path, change):
    path = tmp_path / "t.parquet"
    table = write([curve()], path)
    table = {
        "dropped": lambda: table.drop_columns(["width_upper"]),
        "added": lambda: table.append_column("more", pa.array([1.0])),
        "renamed": lambda: table.rename_columns({"width_upper": "upper"}),
        "reordered": lambda: table.select(list(reversed(table.schema.names))),
        "retyped": lambda: table.set_column(1, "seed", table["seed"].cast(pa.int32())),
    }[change]()
    pq.write_table(table, path)
    assert "another version" in unreadable(path)


def test_a_directory_of_the_form_key_equals_value_adds_no_column(tmp_path):
    path = tmp_path / "l1=0.1" / "seed=7" / "t.parquet"
    write([curve()], path)
    assert read_table("width_curves", path).to_pylist() == [curve()]


# --- grouping -----------------------------------------------------------------------------------------------


def test_groups_stand_in_the_order_of_their_first_rows_with_lists_of_the_other_columns():
    rows = [
        row_of("costs", rule=rule, job=job, seconds=s) for rule, job, s in (("b", "x", 3), ("a", "y", 1), ("b", "z", 2))
    ]
    first, second = grouped(table_of("costs", rows), "run", "rule")
    assert (first["run"], first["rule"], first["job"], first["seconds"]) == ("a", "b", ["x", "z"], [3.0, 2.0])
    assert (second["rule"], second["seconds"]) == ("a", [1.0])


# --- joining ------------------------------------------------------------------------------------------------


def parts(tmp_path: Path, *rows: list[dict], devices: tuple[str, ...] = ()) -> list[Path]:
    paths = [tmp_path / f"part{number}.parquet" for number in range(len(rows))]
    for number, (path, part) in enumerate(zip(paths, rows, strict=True)):
        origin = {"device": devices[number]} if devices else {}
        write_table("width_curves", part, path, origin)
    return paths


def test_parts_are_joined_and_sorted_whatever_their_order(tmp_path):
    files = parts(tmp_path, [curve("b"), curve("b", sparsity=0.1)], [curve("a")], [])
    joined = combine("width_curves", files, tmp_path / "x.parquet", PROVENANCE)
    assert joined.to_pylist() == [curve("a"), curve("b", sparsity=0.1), curve("b")]
    assert read_table("width_curves", tmp_path / "x.parquet").equals(joined)
    combine("width_curves", files[::-1], tmp_path / "y.parquet", PROVENANCE)
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


def test_no_parts_make_an_empty_table(tmp_path):
    assert combine("sweep", [], tmp_path / "all.parquet", PROVENANCE).num_rows == 0
    assert read_table("sweep", tmp_path / "all.parquet").num_rows == 0


def test_a_key_in_two_parts_and_a_damaged_part_are_refused(tmp_path):
    files = parts(tmp_path, [curve("a"), curve("b")], [curve("b", width=0.25)])
    with pytest.raises(TableError, match=re.escape(f"{tmp_path / 'all.parquet'}: two rows of table width_curves")):
        combine("width_curves", files, tmp_path / "all.parquet", PROVENANCE)
    files[1].write_bytes(files[1].read_bytes()[:-5])
    with pytest.raises(TableError, match=re.escape(str(files[1]))):
        combine("width_curves", files, tmp_path / "all.parquet", PROVENANCE)
    assert not (tmp_path / "all.parquet").exists()


def test_the_devices_of_the_parts_are_gathered(tmp_path):
    files = parts(tmp_path, [curve("a")], [curve("b")], [curve("c")], devices=("cuda", "cpu", "cuda"))
    joined = combine("width_curves", files, tmp_path / "all.parquet", {"device": "", "gwprune": "0.1"})
    assert joined.schema.metadata[b"gwprune.device"] == b"cpu, cuda"
    assert joined.schema.metadata[b"gwprune.gwprune"] == b"0.1"
