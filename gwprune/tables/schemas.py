"""The result tables: declared Parquet schemas, reading, writing, combining. No mathematics of the prediction."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..storage.files import atomic_path
from ..storage.owners import refuse_foreign

__all__ = [
    "RUN_TABLES",
    "SCHEMAS",
    "Column",
    "TableError",
    "combine",
    "documentation",
    "read_table",
    "table_provenance",
    "table_schema",
    "write_table",
]


class TableError(Exception):
    """A table file is damaged, foreign or does not follow its declared schema. The message names the file."""


class Column:
    """One column: name, Arrow type, whether it is part of the key, unit and meaning (for results/README.md)."""

    def __init__(self, name: str, type_: pa.DataType, text: str, unit: str = "", key: bool = False):
        self.name, self.type, self.text, self.unit, self.key = name, type_, text, unit, key


def _key(name: str, type_: pa.DataType, text: str) -> Column:
    return Column(name, type_, text, key=True)


_RUN = _key("run", pa.string(), "one network on one data set with one training recipe (without the seed)")
_SEED = _key("seed", pa.int64(), "seed of initialisation, data order, probes and random rankings")
_OPERATOR = _key("operator", pa.string(), "`hessian` or `ggn` (generalised Gauss-Newton)")
_EPSILON_RULE = _key("epsilon_rule", pa.string(), "`batch_std`, `relative:x` or `absolute:x`")
_PREDICTOR = _key("predictor", pa.string(), "`width`, `quadratic`, `trace_bound` or `statistical_dimension`")
_METHOD = _key("method", pa.string(), "pruning method that ranked the weights")
_STAGE = _key(
    "stage",
    pa.string(),
    "`one_shot` (the dense network, pruned), `fine_tuned` (and trained on) or `trained` (trained while sparse: pruned"
    " at initialisation, step by step, or on a mask taken from elsewhere)",
)
_CRITERION = _key("criterion", pa.string(), "`loss_tolerance`, `objective_tolerance` or `accuracy_drop:x`")
_SPARSITY = _key("sparsity", pa.float64(), "fraction of the D prunable weights that are zero")
# A network, its data and its recipe, in words.
_FACTS = (
    _key("network", pa.string(), "network, with its options"),
    _key("dataset", pa.string(), "data set, with its options"),
    _RUN,
    _key("l1", pa.float64(), "l1 coefficient of the run"),
)


def _number(name: str, text: str, unit: str = "") -> Column:
    return Column(name, pa.float64(), text, unit)


def _count(name: str, text: str) -> Column:
    return Column(name, pa.int64(), text, "count")


TABLES: dict[str, tuple[str, list[Column]]] = {
    "training": (
        "Dense training, one row per epoch.",
        [
            _RUN,
            _SEED,
            _key("epoch", pa.int64(), "1 for the first epoch"),
            _number(
                "train_loss",
                "data loss (without label smoothing), running mean over the epoch's batches in training mode",
                "nats",
            ),
            _number("train_accuracy", "running accuracy over the epoch in training mode", "percent"),
            _number("val_loss", "data loss on the validation split after the epoch", "nats"),
            _number("val_accuracy", "accuracy on the validation split after the epoch", "percent"),
            _number("lr", "learning rate of the epoch's first step"),
            _number("seconds", "wall-clock time of the epoch, evaluation included", "s"),
        ],
    ),
    "spectra": (
        "Quadrature nodes and weights of each probe. A rule's weights sum to 1 with the exact-zero rows as one node 0.",
        [
            _RUN,
            _SEED,
            _OPERATOR,
            _key("probe", pa.int64(), "number of the random probe, from 0"),
            _key(
                "rule",
                pa.string(),
                "`gauss`, `radau` (node fixed at 0), `squared_lower`, `squared_upper` (rules of the squared operator)",
            ),
            _number("node", "eigenvalue estimate; for the squared rules the square root of the node, an |eigenvalue|"),
            _number("weight", "spectral weight of the node"),
        ],
    ),
    "width_curves": (
        "The width curve omega(s), its certified interval at 95% confidence over probes.",
        [
            _RUN,
            _SEED,
            _OPERATOR,
            _EPSILON_RULE,
            _SPARSITY,
            _number("pruned_norm", "R(s), Euclidean norm of the removed vector"),
            _number("width", "normalised squared Gaussian width omega(s), in [0, 1]"),
            _number("width_lower", "lower end of its interval"),
            _number("width_upper", "upper end of its interval"),
        ],
    ),
    "sweep": (
        "Every evaluated network: pruned once (`one_shot`), pruned and fine-tuned (`fine_tuned`), or trained while"
        " sparse (`trained`). Test rows are reported, never used to choose anything.",
        [
            _RUN,
            _SEED,
            _METHOD,
            _STAGE,
            _SPARSITY,
            _key("split", pa.string(), "`train`, `val` or `test`"),
            _count("nonzeros", "prunable weights left"),
            _count("empty_layers", "prunable tensors (layers) without a single weight left"),
            _count("multiply_adds", "multiply-adds of the weights left, for one image"),
            _number("epochs", "training epochs spent on this network from its initialisation on, all stages together"),
            _number("pruned_norm", "norm of the weights as they were when they were removed; `one_shot`: R(s)"),
            _number("loss", "mean data loss", "nats"),
            _number("objective", "data loss plus l1 times the sum of |w| over the prunable weights", "nats"),
            _number("accuracy", "top-1 accuracy", "percent"),
            _number("top5_accuracy", "the class is among the five largest outputs", "percent"),
        ],
    ),
    "predictions": (
        "Predicted thresholds of global magnitude pruning, from the dense network alone.",
        [
            _RUN,
            _SEED,
            _PREDICTOR,
            _OPERATOR,
            _EPSILON_RULE,
            _number("epsilon", "allowed rise of the training loss", "nats"),
            _count("dimension", "D, the number of prunable weights"),
            _count(
                "steps",
                "Lanczos steps per probe (`quadratic`: operator-vector products in all; `statistical_dimension`: those"
                " beyond the probes' and earlier epsilon rules')",
            ),
            _count("probes", "random probes (`quadratic`: 0)"),
            _number("threshold", "predicted threshold, a sparsity"),
            _number("threshold_lower", "lower end of its interval"),
            _number("threshold_upper", "upper end of its interval"),
        ],
    ),
    "empirical": (
        "Measured thresholds: the largest sparsity up to which a criterion holds, with the bracketing grid points.",
        [
            _RUN,
            _SEED,
            _METHOD,
            _STAGE,
            _CRITERION,
            _key("epsilon_rule", pa.string(), "the rule behind a tolerance criterion; empty for `accuracy_drop`"),
            _number("threshold", "largest sparsity of the grid up to which the criterion holds"),
            _number("threshold_lower", "the same: the last grid point that meets the criterion"),
            _number("threshold_upper", "the first grid point that misses it; 1 when none does"),
            Column(
                "reached", pa.bool_(), "whether some grid point misses the criterion, so that the bracket is measured"
            ),
        ],
    ),
    "thresholds": (
        "Predicted beside measured, for every predictor and every measured threshold of the same network and epsilon."
        " The prediction is that of global magnitude pruning whatever the row's `method` is.",
        [
            _RUN,
            _SEED,
            _PREDICTOR,
            _OPERATOR,
            _EPSILON_RULE,
            _METHOD,
            _STAGE,
            _CRITERION,
            _number("predicted", "predicted threshold"),
            _number("predicted_lower", "lower end of its interval"),
            _number("predicted_upper", "upper end of its interval"),
            _number("empirical", "measured threshold"),
            _number("empirical_lower", "lower end of its bracket"),
            _number("empirical_upper", "upper end of its bracket"),
            _number("gap", "predicted - empirical"),
        ],
    ),
    "comparison": (
        "Methods side by side: `sweep` on the TEST split over the seeds, at the sparsities that every seed of a method"
        " and stage has; of `one_shot` only 0 and those that the configuration asks for.",
        [
            *_FACTS,
            _METHOD,
            _STAGE,
            _SPARSITY,
            _count("seeds", "seeds behind the row"),
            _number("accuracy_mean", "mean top-1 accuracy on the test split", "percent"),
            _number("accuracy_std", "its sample standard deviation over seeds (n - 1); one seed: 0", "percent"),
            _number("top5_mean", "mean top-5 accuracy on the test split", "percent"),
            _number("loss_mean", "mean data loss on the test split", "nats"),
            _number("dense_accuracy_mean", "mean test accuracy of the dense networks of the same seeds", "percent"),
            _number("compression", "D / prunable weights left; infinite when none is"),
            _number("dense_multiply_adds", "multiply-adds of the dense network for one image", "count"),
            _number("multiply_adds", "mean multiply-adds of the weights left, for one image", "count"),
            _number("speedup", "theoretical speed-up, dense_multiply_adds / multiply_adds; infinite when none is left"),
            _number("epochs", "mean training epochs from initialisation on, all stages together"),
            _count("empty_layers", "prunable tensors (layers) without a single weight left; the seed with most"),
            _count(
                "rank",
                "1 + the (method, stage) pairs of the same run and sparsity with a higher accuracy_mean; ties share",
            ),
            _count("ranked", "(method, stage) pairs that `rank` compares, this one included"),
            _count("stage_rank", "the same as `rank` among the methods of the same stage"),
            Column("source", pa.string(), "measured by which version, commit and configuration; nothing published"),
        ],
    ),
    "comparison_thresholds": (
        "Table `empirical` over the seeds, for every method, stage and criterion.",
        [
            *_FACTS,
            _METHOD,
            _STAGE,
            _CRITERION,
            _key("epsilon_rule", pa.string(), "the rule behind a tolerance criterion; empty for `accuracy_drop`"),
            _count("seeds", "seeds behind the row"),
            _count("reached_seeds", "seeds with a measured bracket; the others met the criterion at every sparsity"),
            _number("threshold_mean", "mean threshold; a bound from below when reached_seeds < seeds"),
            _number("threshold_std", "its sample standard deviation over seeds (n - 1); one seed: 0"),
            _number("threshold_lower", "smallest lower end of the seeds' brackets"),
            _number("threshold_upper", "largest upper end of the seeds' brackets"),
        ],
    ),
    "published": (
        "Numbers that papers report, each with its citation: other code, other recipes. Ships with gwprune; no row of"
        " another table comes from here.",
        [
            _key("citation", pa.string(), "authors, title, venue, arXiv number"),
            _key("table_in_source", pa.string(), "where in the source"),
            _key("dataset", pa.string(), "data set"),
            _key("network", pa.string(), "network, as the source calls it"),
            _key(
                "method", pa.string(), "our name of the method where there is one, else the source's; `dense`: unpruned"
            ),
            _key("procedure", pa.string(), "when the network is pruned and trained"),
            _SPARSITY,
            _number("accuracy", "top-1 accuracy on the test split (ImageNet: validation)", "percent"),
            Column("spread", pa.string(), "`std x` (percentage points) as the source reports it; empty: not reported"),
            _count("seeds", "runs behind the mean; 0: not reported"),
            Column("note", pa.string(), "what else a reader must know"),
        ],
    ),
    "costs": (
        "What the jobs before `collect` cost, from Snakemake's benchmark files; 0 where a job was too short to be"
        " sampled. Jobs that serve all runs have an empty run, seed -1.",
        [
            _RUN,
            _SEED,
            _key("rule", pa.string(), "name of the workflow rule"),
            _key("job", pa.string(), "which of the rule's jobs"),
            _number("seconds", "wall-clock time", "s"),
            _number("max_rss_mb", "largest resident memory", "MB"),
            _number("cpu_seconds", "processor time", "s"),
        ],
    ),
}

# Tables that every run has; the others belong to no run.
RUN_TABLES = [name for name in TABLES if name != "published"]

SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema([pa.field(column.name, column.type, nullable=False) for column in columns])
    for name, (_, columns) in TABLES.items()
}


def table_schema(name: str) -> pa.Schema:
    """Declared schema of the table ``name``.

    Raises:
        KeyError: listing the tables, when there is none of that name.
    """
    if name not in SCHEMAS:
        raise KeyError(f"no table is called {name!r}; there are {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def key_columns(name: str) -> list[str]:
    """Names of the key columns of the table ``name``: no two rows agree in all of them."""
    table_schema(name)
    return [column.name for column in TABLES[name][1] if column.key]


def _checked(name: str, table: pa.Table, path: str | os.PathLike) -> pa.Table:
    keys = key_columns(name)
    # A quadrature rule may hold one node twice, so spectra are a multiset.
    if name != "spectra" and table.group_by(keys).aggregate([]).num_rows != table.num_rows:
        raise TableError(f"{path}: two rows of table {name} agree in all of {', '.join(keys)}")
    return table.sort_by([(key, "ascending") for key in keys])


def write_table(
    name: str, rows: Iterable[Mapping[str, Any]], path: str | os.PathLike, provenance: Mapping[str, str]
) -> pa.Table:
    """Write ``rows`` (one mapping of all columns each) as table ``name`` to ``path``, sorted by key, atomically.

    Raises:
        TableError: naming ``path`` and the column, for a missing or unknown column, a wrong type or a doubled key.
    """
    schema, rows = table_schema(name), list(rows)
    for row in rows:
        if set(row) != set(schema.names):
            odd = ", ".join(sorted(set(row) ^ set(schema.names)))
            raise TableError(f"{path}: a row of table {name} lacks or adds column(s) {odd}")
        empty = [column for column in schema.names if row[column] is None]
        if empty:
            raise TableError(f"{path}: a row of table {name} has no value for {', '.join(empty)}")
        cut = [f.name for f in schema if pa.types.is_integer(f.type) and isinstance(row[f.name], float)]
        if cut:
            raise TableError(f"{path}: a row of table {name} has no whole number for {', '.join(cut)}")
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TableError(f"{path}: a value does not fit table {name}: {error}") from error
    return _write(name, table, path, provenance)


def _write(name: str, table: pa.Table, path: str | os.PathLike, provenance: Mapping[str, str]) -> pa.Table:
    metadata = {"gwprune.table": name, **{f"gwprune.{key}": str(value) for key, value in provenance.items()}}
    table = _checked(name, table, path).replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table


def read_table(name: str, path: str | os.PathLike) -> pa.Table:
    """Read table ``name`` from ``path``.

    Raises:
        TableError: naming ``path``, when it is empty, truncated, not Parquet, or of another or older schema.
    """
    schema = table_schema(name)
    try:
        if Path(path).stat().st_size == 0:
            raise TableError(f"{path} is empty (zero bytes); delete it and run again")
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path} cannot be read as the Parquet table {name}: {error}") from error
    if not table.schema.equals(schema, check_metadata=False):
        raise TableError(
            f"{path} does not follow the schema of table {name}: found {', '.join(table.schema.names)};"
            f" expected {', '.join(schema.names)}. It comes from another version: delete it and run again"
        )
    return table


def table_provenance(table: pa.Table) -> dict[str, str]:
    """The provenance that a table was written with."""
    words = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return {
        key.removeprefix("gwprune."): value
        for key, value in words.items()
        if key.startswith("gwprune.") and key != "gwprune.table"
    }


def combine(
    name: str,
    parts: Sequence[str | os.PathLike],
    path: str | os.PathLike,
    provenance: Mapping[str, str],
    owners: Sequence[Mapping[str, Any] | None] = (),
) -> pa.Table:
    """Join part files of table ``name`` into one sorted table at ``path``; returns it.

    The devices of the parts are gathered in the provenance.

    Args:
        name: of the table.
        parts: files.
        path: of the joined table.
        provenance: for its metadata.
        owners: for each part, the values of ``run`` and ``seed`` that its rows must have; empty or None: any.

    Raises:
        TableError: naming the file, for a part that does not fit or a key that occurs in two parts.
        ArtifactError: naming the part, when a row belongs to another run or seed.
    """
    tables = [read_table(name, part) for part in parts]
    for part, table, owner in zip(parts, tables, owners or [None] * len(parts), strict=True):
        if owner is not None:
            for row in table.group_by(list(owner)).aggregate([]).to_pylist():
                refuse_foreign(part, row, owner)
    joined = pa.concat_tables(tables) if tables else table_schema(name).empty_table()
    devices = {
        device
        for table in tables
        for device in (table.schema.metadata or {}).get(b"gwprune.device", b"").decode().split(", ")
    } - {""}
    if devices:
        provenance = {**provenance, "device": ", ".join(sorted(devices))}
    return _write(name, joined.replace_schema_metadata(None), path, provenance)


def documentation() -> str:
    """Markdown reference of every table and column; results/README.md holds it between two marks."""
    lines: list[str] = []
    for name, (text, columns) in TABLES.items():
        lines += [
            f"### `tables/{name}.parquet`",
            "",
            text,
            "",
            "| column | type | unit | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for column in columns:
            mark = " (key)" if column.key else ""
            lines.append(f"| `{column.name}`{mark} | {column.type} | {column.unit} | {column.text} |")
        lines.append("")
    return "\n".join(lines)
