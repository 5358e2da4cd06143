"""What every result table holds: its columns with their types, units and meanings, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..spectral.predictors import PREDICTORS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "RUN_TABLES",
    "STAGES",
    "TABLES",
    "Column",
    "documentation",
    "key_columns",
    "prediction_order",
    "readme",
    "table_schema",
]


# The values of column `stage`, in the order in which tables and figures show them -> how people call them.
STAGES = {"one_shot": "one-shot", "fine_tuned": "fine-tuned", "trained": "trained while sparse"}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as in the file.
        type: name of its Arrow type.
        text: meaning, for results/README.md.
        unit: empty for names and pure numbers.
        key: whether it is part of the key of a row.
        nullable: whether a row may have no value there; the text then says when.
    """

    name: str
    type: str
    text: str
    unit: str = ""
    key: bool = False
    nullable: bool = False


def _key(name: str, text: str, type_: str = "string") -> Column:
    return Column(name, type_, text, key=True)


_UNKNOWN = "the bracket is open (no point misses) or wider than 0.05"


def _number(name: str, text: str, unit: str = "") -> Column:
    return Column(name, "double", text, unit)


def _known(name: str, text: str) -> Column:
    return Column(name, "double", f"{text}; null where {_UNKNOWN}", nullable=True)


def _count(name: str, text: str) -> Column:
    return Column(name, "int64", text, "count")


def _interval(name: str, text: str, ends: str = "interval") -> tuple[Column, Column, Column]:
    lower, upper = (_number(f"{name}_{end}", f"{end} end of its {ends}") for end in ("lower", "upper"))
    return _number(name, text), lower, upper


_RUN = _key("run", "one network on one data set with one training recipe (without the seed)")
_SEED = _key("seed", "seed of initialisation, data order, probes and random rankings", "int64")
_OPERATOR = _key("operator", "`hessian` or `ggn` (generalised Gauss-Newton)")
_EPSILON_RULE = _key("epsilon_rule", "`batch_std`, `relative:x` or `absolute:x`")
_PREDICTOR = _key("predictor", "one of " + ", ".join(f"`{name}`" for name in PREDICTORS))
_METHOD = _key("method", "pruning method that ranked the weights")
_STAGE = _key(
    "stage",
    "`one_shot` (the dense network, pruned), `fine_tuned` (and trained on) or `trained` (trained while sparse: pruned"
    " at initialisation, step by step, or on a mask taken from elsewhere)",
)
_CRITERION = _key(
    "criterion",
    "`loss_tolerance`, `objective_tolerance` or `accuracy_drop:x`, held against the dense network as trained; with"
    " `control_` before it (stage `fine_tuned` alone): against the control, the dense network with the same further"
    " training",
)
_MODELS = "; ".join(
    f"`{own.name}`: " + ", ".join(f"`{criterion}`" for criterion in own.criteria)
    for own in PREDICTORS.values()
    if any(own.criteria)
)
_CRITERION_RULE = _key("epsilon_rule", "the rule behind a tolerance criterion; empty for `accuracy_drop`")
_SPARSITY = _key("sparsity", "fraction of the D prunable weights that are zero", "double")
_NETWORK = (_RUN, _SEED)
_PREDICTION = (*_NETWORK, _PREDICTOR, _OPERATOR, _EPSILON_RULE)
_MEASUREMENT = (_METHOD, _STAGE, _CRITERION)
# A network, its data and its recipe, in words.
_FACTS = (
    _key("network", "network, with its options"),
    _key("dataset", "data set, with its options"),
    _RUN,
    _key("l1", "l1 coefficient of the run", "double"),
)


TABLES: dict[str, tuple[str, list[Column]]] = {
    "training": (
        "Dense training, one row per epoch; none of a network that `network.weights` gives trained.",
        [
            *_NETWORK,
            _key("epoch", "1 for the first epoch", "int64"),
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
            *_NETWORK,
            _OPERATOR,
            _key("probe", "number of the random probe, from 0", "int64"),
            _key(
                "rule",
                "`gauss`, `radau` (node fixed at 0), `squared_lower`, `squared_upper` (rules of the squared operator);"
                " where all eigenvalues are known, these under each name",
            ),
            _number("node", "eigenvalue estimate; for the squared rules the square root of the node, an |eigenvalue|"),
            _number("weight", "spectral weight of the node"),
        ],
    ),
    "width_curves": (
        "The width curve omega(s) of global magnitude pruning, its certified interval at 95% confidence over probes.",
        [
            *_NETWORK,
            _OPERATOR,
            _EPSILON_RULE,
            _SPARSITY,
            _number("pruned_norm", "R(s), Euclidean norm of the removed vector"),
            *_interval("width", "normalised squared Gaussian width omega(s), in [0, 1]; the best estimate"),
        ],
    ),
    "sweep": (
        "Every evaluated network: pruned once (`one_shot`), pruned and fine-tuned (`fine_tuned`; sparsity 0 is the"
        " control), or trained while sparse (`trained`). Test rows are reported, never used to choose anything.",
        [
            *_NETWORK,
            _METHOD,
            _STAGE,
            _SPARSITY,
            _key("split", "`train`, `val` or `test`"),
            _count("nonzeros", "prunable weights left"),
            _count("empty_layers", "prunable tensors (layers) without a single weight left"),
            _count("multiply_adds", "multiply-adds of the weights left, for one image"),
            _number(
                "epochs",
                "training epochs spent on this network from its initialisation (or from `network.weights`) on, all"
                " stages together",
            ),
            _number("pruned_norm", "norm of the weights as they were when they were removed; `one_shot`: R(s)"),
            _number("loss", "mean data loss", "nats"),
            _number("objective", "data loss plus l1 times the sum of |w| over the prunable weights", "nats"),
            _number("accuracy", "top-1 accuracy", "percent"),
            _number("top5_accuracy", "the class is among the five largest outputs", "percent"),
        ],
    ),
    "predictions": (
        "Predicted thresholds of every one-shot method, from the dense network alone. docs/theory.md says which"
        " measured thresholds each predictor should meet.",
        [
            *_NETWORK,
            _key("method", "one-shot pruning method whose removed vectors the prediction is of"),
            _PREDICTOR,
            _OPERATOR,
            _EPSILON_RULE,
            _key(
                "criterion",
                f"whose function it models, of a predictor with a model for each ({_MODELS}); empty: one model for all",
            ),
            _number("epsilon", "allowed rise of the training loss", "nats"),
            _count("dimension", "D, the number of prunable weights"),
            _count(
                "steps",
                "Lanczos steps per probe (`quadratic`, `surgeon`, `surgeon_step`: operator-vector products beyond"
                " those of earlier epsilon rules and criteria; `statistical_dimension`: beyond those and the probes',"
                " of further methods than the first under a tenth of these);"
                " where `spectrum.steps` is at least the number of rows of the curvature that are not zero, and that at"
                " most 3,000: that number, the products that made the matrix dense",
            ),
            _count("probes", "random probes (0 where there are none, or the matrix is dense, its eigenvalues known)"),
            *_interval(
                "threshold",
                "predicted threshold, a sparsity: the best estimate, inside its certified interval; of `width` and"
                " `statistical_dimension` extrapolated from how that closed, not its middle (docs/intervals.md)",
            ),
        ],
    ),
    "empirical": (
        "Measured thresholds: the largest sparsity up to which a criterion holds, with the bracketing grid points.",
        [
            *_NETWORK,
            *_MEASUREMENT,
            _CRITERION_RULE,
            _number("threshold", "largest sparsity of the grid up to which the criterion holds"),
            _number("threshold_lower", "the same: the last grid point that meets the criterion"),
            _number("threshold_upper", "the first grid point that misses it; 1 when none does"),
            Column("reached", "bool", "whether some grid point misses the criterion, so that the bracket is measured"),
        ],
    ),
    "thresholds": (
        "Predicted beside measured, for every predictor and every measured threshold of the same network, `method` and"
        " epsilon; methods without a prediction have no row. A predictor with models of several criteria stands beside"
        " `control_x` with that of `x`, beside a criterion that it has no model of with its first.",
        [
            *_PREDICTION,
            *_MEASUREMENT,
            *_interval("predicted", "predicted threshold"),
            _known("empirical", "measured threshold, the lower end of its bracket"),
            _number("empirical_lower", "the last grid point that meets the criterion; 0 when none does"),
            _number("empirical_upper", "the first grid point that misses it; 1 when none does"),
            _known("gap", "predicted - empirical"),
        ],
    ),
    "comparison": (
        "Methods side by side: `sweep` on the TEST split over the seeds, at the sparsities that every seed of a method"
        " and stage has; of `one_shot` and `fine_tuned` only 0 and those that the configuration asks for.",
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
            _number("epochs", "as in table `sweep`, mean over the seeds"),
            _count("empty_layers", "prunable tensors (layers) without a single weight left; the seed with most"),
            _count(
                "rank",
                "1 + the (method, stage) pairs of the same run and sparsity with a higher accuracy_mean; ties share",
            ),
            _count("ranked", "(method, stage) pairs that `rank` compares, this one included"),
            _count("stage_rank", "the same as `rank` among the methods of the same stage"),
            Column("source", "string", "measured by which version, commit and configuration; nothing published"),
        ],
    ),
    "comparison_thresholds": (
        "Table `empirical` over the seeds, for every method, stage and criterion.",
        [
            *_FACTS,
            *_MEASUREMENT,
            _CRITERION_RULE,
            _count("seeds", "seeds behind the row"),
            _count("reached_seeds", "seeds with a measured bracket; the others met the criterion at every sparsity"),
            Column("threshold_mean", "double", f"mean threshold; null where of some seed {_UNKNOWN}", nullable=True),
            Column(
                "threshold_std",
                "double",
                "its sample standard deviation over seeds (n - 1); null where the mean is, and with one seed",
                nullable=True,
            ),
            _number("threshold_lower", "smallest lower end of the seeds' brackets"),
            _number("threshold_upper", "largest upper end of the seeds' brackets"),
        ],
    ),
    "published": (
        "Numbers that papers report, each with its citation: other code, other recipes. Ships with gwprune; no row of"
        " another table comes from here.",
        [
            _key("citation", "authors, title, venue, arXiv number"),
            _key("table_in_source", "where in the source"),
            _key("dataset", "data set"),
            _key("network", "network, as the source calls it"),
            _key("method", "our name of the method where there is one, else the source's; `dense`: unpruned"),
            _key("procedure", "when the network is pruned and trained"),
            _SPARSITY,
            _number("accuracy", "top-1 accuracy on the test split (ImageNet: validation)", "percent"),
            Column("spread", "string", "`std x` (percentage points) as the source reports it; empty: not reported"),
            _count("seeds", "runs behind the mean; 0: not reported"),
            Column("note", "string", "what else a reader must know"),
        ],
    ),
    "costs": (
        "What the jobs before `collect` cost, from Snakemake's benchmark files; 0 where a job was too short to be"
        " sampled. Jobs that serve all runs have an empty run, seed -1.",
        [
            *_NETWORK,
            _key("rule", "name of the workflow rule"),
            _key("job", "which of the rule's jobs"),
            _number("seconds", "wall-clock time", "s"),
            _number("max_rss_mb", "largest resident memory", "MB"),
            _number("cpu_seconds", "processor time", "s"),
        ],
    ),
}

# Tables that every run has; the others belong to no run.
RUN_TABLES = [name for name in TABLES if name != "published"]


@cache
def table_schema(name: str) -> pa.Schema:
    """Declared Arrow schema of a table; no column may hold a null but those that are declared so.

    Args:
        name: of the table.

    Raises:
        KeyError: listing the tables, when there is none of that name.
    """
    import pyarrow as pa  # noqa: PLC0415 - planning needs the names of tables, not Arrow

    if name not in TABLES:
        raise KeyError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    columns = TABLES[name][1]
    return pa.schema([pa.field(own.name, pa.type_for_alias(own.type), nullable=own.nullable) for own in columns])


def key_columns(name: str) -> list[str]:
    """Names of the key columns of a table: no two rows agree in all of them.

    Args:
        name: of the table.

    Raises:
        KeyError: listing the tables, when there is none of that name.
    """
    table_schema(name)
    return [column.name for column in TABLES[name][1] if column.key]


def prediction_order(predictor: str, operator: str) -> tuple:
    """Sort key of predictions: predictors as they are registered, the Hessian before the other operators."""
    known = list(PREDICTORS)
    place = known.index(predictor) if predictor in PREDICTORS else len(known)
    return place, predictor, operator != "hessian", operator


_PAGES = {
    "thresholds.csv": "table `thresholds` as text",
    "comparison.md": "tables `comparison` and `comparison_thresholds` as a page of Markdown",
    "comparison.html": "the same page for a browser",
}


def readme() -> str:
    """What each file beside the tables of a run is, and what stands in it, as Markdown."""
    files = {**{f"{name}.parquet": text for name, (text, _) in TABLES.items()}, **_PAGES}
    about = "Tables are in long format, sorted by their keys; schema metadata (`gwprune.*`) say where they come from."
    head = ["# Tables", "", about, "", "| file | what it holds |", "| --- | --- |"]
    rows = [f"| [`{name}`]({name}) | {text} |" for name, text in files.items()]
    return "\n".join([*head, *rows, "", "## Columns", "", documentation()])


def documentation() -> str:
    """Markdown reference of every table and column; results/README.md holds it between two marks."""
    lines: list[str] = []
    for name, (text, columns) in TABLES.items():
        lines += [f"### `tables/{name}.parquet`", "", text, ""]
        lines += ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        for column in columns:
            mark = " (key)" if column.key else ""
            lines.append(f"| `{column.name}`{mark} | {column.type} | {column.unit} | {column.text} |")
        lines.append("")
    return "\n".join(lines)
