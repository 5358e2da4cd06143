"""Result tables as Parquet files: written whole or not at all, checked against their schema, joined, grouped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..storage.files import atomic_path
from ..storage.owners import refuse_foreign
from .schemas import key_columns, table_schema

__all__ = ["TableError", "combine", "grouped", "read_table", "table_provenance", "tables_folder", "write_table"]


class TableError(Exception):
    """A table file is damaged, foreign or does not follow its declared schema. The message names the file."""


def write_table(
    name: str, rows: Iterable[Mapping[str, Any]], path: str | os.PathLike, provenance: Mapping[str, str]
) -> pa.Table:
    """Write rows as a table, sorted by key.

    Args:
        name: of the table.
        rows: a mapping of all columns each.
        path: of the Parquet file, which is replaced.
        provenance: for the schema's metadata.

    Returns:
        The table as it stands in the file.

    Raises:
        TableError: naming ``path`` and the column, for a missing or unknown column, a wrong type or a doubled key.
    """
    schema, rows = table_schema(name), list(rows)
    # Arrow itself takes a missing value for null, drops unknown columns and cuts 1.5 down to 1.
    for row in rows:
        if set(row) != set(schema.names):
            odd = ", ".join(sorted(set(row) ^ set(schema.names)))
            raise TableError(f"{path}: a row of table {name} lacks or adds column(s) {odd}")
        if empty := [field.name for field in schema if row[field.name] is None and not field.nullable]:
            raise TableError(f"{path}: a row of table {name} has no value for {', '.join(empty)}")
        if cut := [f.name for f in schema if pa.types.is_integer(f.type) and isinstance(row[f.name], float)]:
            raise TableError(f"{path}: a row of table {name} has no whole number for {', '.join(cut)}")
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TableError(f"{path}: a value does not fit table {name}: {error}") from error
    return _write(name, table, path, provenance)


def _write(name: str, table: pa.Table, path: str | os.PathLike, provenance: Mapping[str, str]) -> pa.Table:
    keys = key_columns(name)
    # A quadrature rule may hold one node twice, so spectra are a multiset.
    if name != "spectra" and table.group_by(keys).aggregate([]).num_rows != table.num_rows:
        raise TableError(f"{path}: two rows of table {name} agree in all of {', '.join(keys)}")
    metadata = {"gwprune.table": name, **{f"gwprune.{key}": str(value) for key, value in provenance.items()}}
    table = table.sort_by([(key, "ascending") for key in keys]).replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table


def read_table(name: str, path: str | os.PathLike) -> pa.Table:
    """Read a table.

    Args:
        name: of the table.
        path: of the Parquet file.

    Raises:
        TableError: naming ``path``, when it is empty, truncated, not Parquet, or of another or older schema.
    """
    schema = table_schema(name)
    try:
        if Path(path).stat().st_size == 0:
            raise TableError(f"{path} is empty (zero bytes); delete it and run again")
        with pq.ParquetFile(path) as file:  # read_table() would import pandas
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path} cannot be read as the Parquet table {name}: {error}") from error
    if not table.schema.equals(schema, check_metadata=False):
        raise TableError(
            f"{path} does not follow the schema of table {name}: found {', '.join(table.schema.names)};"
            f" expected {', '.join(schema.names)}. It comes from another version: delete it and run again"
        )
    return table


def tables_folder(results: str | os.PathLike) -> Path:
    """Where the tables of a directory of results lie: in its folder ``tables``, or in it where they stand alone."""
    folder = Path(results) / "tables"
    return Path(results) if not folder.exists() and (Path(results) / "thresholds.parquet").exists() else folder


def table_provenance(table: pa.Table) -> dict[str, str]:
    """The provenance that a table was written with."""
    words = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    words.pop("gwprune.table", None)
    return {key.removeprefix("gwprune."): value for key, value in words.items() if key.startswith("gwprune.")}


def combine(
    name: str,
    parts: Sequence[str | os.PathLike],
    path: str | os.PathLike,
    provenance: Mapping[str, str],
    owners: Sequence[Mapping[str, Any] | None] = (),
) -> pa.Table:
    """Join part files of a table into one sorted table.

    Args:
        name: of the table.
        parts: its files.
        path: of the joined file.
        provenance: for the schema's metadata; the devices of the parts are gathered there.
        owners: for each part, the values of ``run`` and ``seed`` that its rows must have; empty or None: any.

    Returns:
        The table as it stands in the file.

    Raises:
        TableError: naming the file, for a part that does not fit or a key that occurs in two parts.
        ArtifactError: naming the part, when a row belongs to another run or seed.
    """
    tables = [read_table(name, part) for part in parts]
    for part, table, owner in zip(parts, tables, owners or [None] * len(parts), strict=True):
        for row in table.group_by(list(owner)).aggregate([]).to_pylist() if owner else ():
            refuse_foreign(part, row, owner)
    joined = pa.concat_tables(tables) if tables else table_schema(name).empty_table()
    devices = {device for table in tables for device in table_provenance(table).get("device", "").split(", ")} - {""}
    if devices:
        provenance = {**provenance, "device": ", ".join(sorted(devices))}
    return _write(name, joined, path, provenance)


def grouped(table: pa.Table, *keys: str) -> list[dict[str, Any]]:
    """Groups of rows that agree in some columns.

    Args:
        table: any table.
        keys: names of these columns.

    Returns:
        A mapping for each group, in the order of their first rows: the keys with their values, every other column with
        the list of its values.
    """
    lists = [(name, "list") for name in table.column_names if name not in keys]
    groups = table.group_by(list(keys), use_threads=False).aggregate(lists)  # threads would mix the order
    return groups.rename_columns([name.removesuffix("_list") for name in groups.column_names]).to_pylist()
