"""Loss tolerances and measured thresholds: when does a pruned network still count as good?"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..spectral.predictors import PREDICTORS
from ..storage.files import read_json
from ..storage.owners import refuse_foreign
from .schemas import prediction_order

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "LIMITS",
    "Bracket",
    "Criterion",
    "Limit",
    "bisect_bracket",
    "bracket_text",
    "criteria",
    "criteria_of",
    "decimals",
    "empirical_rows",
    "empirical_threshold",
    "epsilon_value",
    "epsilons_of",
    "gap_text",
    "interval_text",
    "limit_rows",
    "main_method",
    "next_sparsity",
    "search",
    "threshold_rows",
]

# Split -> values of one network, keys among loss, objective, accuracy.
Measured = Mapping[str, Mapping[str, float]]

_ENDS = ("", "_lower", "_upper")

# Widest bracket whose lower end may stand for the threshold.
_WIDEST = 0.05


@dataclass(frozen=True)
class Limit:
    """How sparse a network can be before it is too bad, in one of two senses.

    Attributes:
        name: for people.
        stage: of the pruned networks.
        criterion: that they are to meet.
        predictor: that speaks of this limit.
    """

    name: str
    stage: str
    criterion: str
    predictor: str


LIMITS = (
    Limit("one-shot", "one_shot", "loss_tolerance", "width"),
    Limit("fine-tuned", "fine_tuned", "control_loss_tolerance", "statistical_dimension"),
)


def main_method(methods: Iterable[str]) -> str:
    """The pruning method whose limits are shown where one is: magnitude, else the first by name."""
    methods = set(methods)
    return "magnitude" if "magnitude" in methods else min(methods, default="magnitude")


def plain(number: float) -> str:
    """A number as it stands in names: every digit, and no ``.0``."""
    return repr(float(number)).removesuffix(".0")


def epsilon_value(rule: str, dense_loss: float, batch_std: float) -> float:
    """Loss tolerance of an epsilon rule.

    Args:
        rule: ``batch_std``, ``relative:x`` (x times the dense loss) or ``absolute:x``.
        dense_loss: training loss of the dense network, in nats.
        batch_std: standard deviation of its mini-batch losses, in nats.

    Returns:
        The tolerance in nats.

    Raises:
        ValueError: for an unknown rule, or when the result is not positive (a single batch has no deviation).
    """
    kind, _, number = rule.partition(":")
    if kind == "batch_std":
        value = batch_std
    elif kind == "relative":
        value = float(number) * dense_loss
    elif kind == "absolute":
        value = float(number)
    else:
        raise ValueError(f"unknown epsilon rule {rule!r}; allowed: batch_std, relative:x, absolute:x")
    if not value > 0:
        reason = "; it needs two whole training batches of different loss" if kind == "batch_std" else ""
        raise ValueError(f"epsilon rule {rule!r} gives {value}, which is not positive{reason}")
    return value


@dataclass(frozen=True)
class Criterion:
    """One condition on a pruned network: ``quantity`` on ``split`` at most (sign 1) or at least (-1) ``limit``.

    ``tolerance`` is the part of the limit beyond the value of the network that it is held against.
    """

    name: str
    epsilon_rule: str
    split: str
    quantity: str
    sign: int
    limit: float
    tolerance: float = field(default=0.0, compare=False)

    def against(self, control: Measured) -> Criterion:
        """The same condition, by the same tolerance, held against the control instead of the dense network.

        Args:
            control: values on its splits of the dense network with the further training of the pruned ones.
        """
        limit = control[self.split][self.quantity] + self.sign * self.tolerance
        return replace(self, name=f"control_{self.name}", limit=limit)

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether a network with these values (keys ``loss``, ``objective``, ``accuracy``) meets it; NaN does not."""
        return self.sign * values[self.quantity] <= self.sign * self.limit


def criteria(dense: Measured, epsilons: Mapping[str, float], accuracy_drops: Sequence[float]) -> list[Criterion]:
    """All criteria of a network: both tolerances of each epsilon rule on training data, accuracy on validation data.

    Args:
        dense: values of the dense network on its splits.
        epsilons: rule -> tolerance in nats.
        accuracy_drops: percentage points.
    """
    tolerances = [
        Criterion(f"{quantity}_tolerance", rule, "train", quantity, 1, dense["train"][quantity] + epsilon, epsilon)
        for rule, epsilon in epsilons.items()
        for quantity in ("loss", "objective")
    ]
    drops = [
        Criterion(f"accuracy_drop:{plain(drop)}", "", "val", "accuracy", -1, dense["val"]["accuracy"] - drop, drop)
        for drop in accuracy_drops
    ]
    return tolerances + drops


def _dense_summary(path: str | os.PathLike, owner: Mapping[str, Any] | None) -> dict[str, Any]:
    """What training wrote of the dense network.

    Raises:
        ValueError: naming the file, when it is cut off or not such a summary.
        ArtifactError: naming the file, when it belongs to another run or seed than ``owner``.
    """
    summary = read_json(path)
    try:
        values = [summary["splits"][split][name] for split in ("train", "val") for name in ("loss", "objective")]
        values += [summary["splits"]["val"]["accuracy"], summary["batch_std"]]
        complete = all(isinstance(value, int | float) for value in values)
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is no summary of a dense network by this version; delete it and run again")
    refuse_foreign(path, summary.get("owner"), owner)
    return summary


def epsilons_of(
    dense: str | os.PathLike, rules: Sequence[str], *, owner: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Tolerances from the summary that training wrote.

    Args:
        dense: file of the summary.
        rules: epsilon rules.
        owner: run and seed that it must belong to; None: any.

    Returns:
        Rule -> tolerance in nats.
    """
    summary = _dense_summary(dense, owner)
    return {rule: epsilon_value(rule, summary["splits"]["train"]["loss"], summary["batch_std"]) for rule in rules}


def criteria_of(
    dense: str | os.PathLike,
    epsilon_rules: Sequence[str],
    accuracy_drops: Sequence[float],
    *,
    owner: Mapping[str, Any] | None = None,
) -> list[Criterion]:
    """All criteria of a network, from the summary that training wrote.

    Args:
        dense: file of the summary.
        epsilon_rules: as in the configuration.
        accuracy_drops: percentage points.
        owner: run and seed that the summary must belong to; None: any.
    """
    splits = _dense_summary(dense, owner)["splits"]
    return criteria(splits, epsilons_of(dense, epsilon_rules), accuracy_drops)


@dataclass(frozen=True)
class Bracket:
    """A measured threshold: the last grid point that meets the criterion and the first that does not.

    Attributes:
        lower: 0 when no point meets it.
        upper: 1 when every point meets it.
        reached: whether some point misses it.
    """

    lower: float
    upper: float
    reached: bool

    @property
    def known(self) -> bool:
        """Whether it is closed and narrow enough for its lower end to stand for the threshold."""
        return self.reached and self.upper - self.lower <= _WIDEST * (1 + 1e-9)


def bracket_text(lower: float, upper: float) -> str:
    """A bracket for people: both ends, which are points of the grid, or a bound where it is open.

    Args:
        lower: 0 when no point meets the criterion.
        upper: 1 when every point meets it.
    """
    if upper == 1.0:
        return f">= {lower:.4f}"
    if lower == 0.0:
        return f"< {upper:.4f}"
    digits = max(4, decimals(upper - lower))
    return f"[{lower:.{digits}f}, {upper:.{digits}f}]"


def interval_text(value: float, lower: float, upper: float) -> str:
    """A prediction for people."""
    return f"{value:.4f} [{lower:.4f}, {upper:.4f}]"


def gap_text(gap: float | None, lower: float, upper: float) -> str:
    """A gap for people, to as many decimals as its bracket is known to; a dash for none.

    Args:
        gap: predicted minus the lower end of the bracket.
        lower: end of the bracket.
        upper: end of the bracket.
    """
    return "-" if gap is None else f"{gap:+.{decimals(upper - lower)}f}"


def decimals(width: float) -> int:
    """How many decimals a number has that is known to ``width``: 3 for 0.001, as for 0.0007 and for 0.005."""
    return min(max(math.ceil(-math.log10(width) - 0.2), 0), 6) if width > 0 else 4


def empirical_threshold(grid: Mapping[float, Measured], criterion: Criterion) -> Bracket:
    """Largest sparsity up to which every grid point meets a criterion; the dense network, 0, counts as meeting it.

    Args:
        grid: sparsity -> values.
        criterion: the condition.
    """
    lower = 0.0
    for sparsity in sorted(grid):
        if sparsity > 0 and not criterion.met(grid[sparsity][criterion.split]):
            return Bracket(lower, sparsity, True)
        lower = sparsity
    return Bracket(lower, 1.0, False)


def _middle(bracket: Bracket, resolution: float, most: float = 1.0) -> float | None:
    """Where to halve a bracket below ``most``; None when it is narrow enough."""
    lower, upper = bracket.lower, min(bracket.upper, most)
    # Six decimals: what a sparsity may have in the configuration.
    middle = round((lower + upper) / 2, 6)
    return None if upper - lower <= resolution * (1 + 1e-9) or middle in (lower, upper) else middle


def next_sparsity(grid: Mapping[float, Measured], wanted: Sequence[Criterion], resolution: float) -> float | None:
    """Where to measure next, so that the bracket of every criterion gets narrow: the middle of the first wide one.

    A bracket that is open above is halved up to 1, where nothing is left of the network. A bracket of width w takes
    ceil(log2(w / resolution)) measurements; more only where a point of one criterion shows an earlier miss of another.

    Args:
        grid: sparsity -> values, of what is measured.
        wanted: the criteria.
        resolution: widest bracket that is left.

    Returns:
        A sparsity that is not in the grid; None when every bracket is narrow enough.
    """
    middles = (_middle(empirical_threshold(grid, criterion), resolution) for criterion in wanted)
    return next((middle for middle in middles if middle is not None), None)


def bisect_bracket(
    grid: dict[float, Measured],
    criterion: Criterion,
    measure: Callable[[float], Measured],
    resolution: float,
    most: float,
) -> None:
    """Halve the bracket of a criterion by further measurements until it is narrow enough.

    Args:
        grid: sparsity -> values; the measurements are added to it.
        criterion: whose bracket.
        measure: sparsity -> values.
        resolution: widest bracket that is left.
        most: the largest sparsity to measure; a bracket that stays open above it is left open.
    """
    while True:
        bracket = empirical_threshold(grid, criterion)
        point = most if not bracket.reached and bracket.lower < most else _middle(bracket, resolution, most)
        if point is None:
            return
        grid[point] = measure(point)


def search(
    wanted: Sequence[Criterion],
    sparsities: Sequence[float],
    measure: Callable[[Sequence[float]], Iterable[Measured]],
    resolution: float,
) -> dict[float, Measured]:
    """Measure the asked sparsities, the dense network, and what brackets every criterion to ``resolution``.

    First each criterion is bisected over [0, largest asked sparsity], on the monotone envelope of what is known: the
    worst value so far over rising sparsity, which meets the criterion up to `empirical_threshold`. The asked grid comes
    next, and where it shows an earlier miss, bisection goes on there. Points that one criterion asks for serve all of
    them. One criterion thus takes 1 + 2 ceil(log2(1 / resolution)) points beside the asked ones, or fewer.

    Args:
        wanted: the criteria.
        sparsities: the asked ones.
        measure: sparsities -> the values of each in turn.
        resolution: widest bracket that is left.

    Returns:
        Sparsity -> values, in rising order.
    """
    most = max(sparsities)
    grid: dict[float, Measured] = {}

    def bisect_all() -> None:
        # A point that one criterion asks for may show another one's first miss elsewhere.
        before = None
        while before != len(grid):
            before = len(grid)
            for criterion in wanted:
                bisect_bracket(grid, criterion, lambda sparsity: next(iter(measure([sparsity]))), resolution, most)

    bisect_all()
    asked = sorted({0.0, *sparsities} - set(grid))
    grid.update(zip(asked, measure(asked), strict=True))
    bisect_all()
    return {sparsity: grid[sparsity] for sparsity in sorted(grid)}


def empirical_rows(sweep: pa.Table, wanted: Mapping[tuple[str, int], Sequence[Criterion]]) -> list[dict[str, Any]]:
    """Rows of table `empirical`.

    Stage `fine_tuned` has every criterion once more, held against the control, where the table holds one: its rows of
    sparsity 0.

    Args:
        sweep: the table of measurements.
        wanted: (run, seed) -> its criteria, held against the dense network.
    """
    grids: dict[tuple, dict[float, dict[str, Any]]] = {}
    for row in sweep.to_pylist():
        grid = grids.setdefault((row["run"], row["seed"], row["method"], row["stage"]), {})
        grid.setdefault(row["sparsity"], {})[row["split"]] = row
    rows = []
    for (run, seed, method, stage), grid in grids.items():
        control = grid.get(0.0) if stage == "fine_tuned" else None
        against = [criterion.against(control) for criterion in wanted[run, seed]] if control else []
        for criterion in (*wanted[run, seed], *against):
            bracket = empirical_threshold(grid, criterion)
            rows.append(
                {
                    "run": run,
                    "seed": seed,
                    "method": method,
                    "stage": stage,
                    "criterion": criterion.name,
                    "epsilon_rule": criterion.epsilon_rule,
                    "threshold": bracket.lower,
                    "threshold_lower": bracket.lower,
                    "threshold_upper": bracket.upper,
                    "reached": bracket.reached,
                }
            )
    return rows


def threshold_rows(predictions: pa.Table, empirical: pa.Table) -> list[dict[str, Any]]:
    """Rows of table `thresholds`: each prediction beside each measurement of the same run, seed, method, epsilon rule.

    A predictor with a model of its own for each of several criteria stands beside a measurement with one of them.
    A bracket that is open or wide stands for no threshold: `empirical` and `gap` are null there.

    Args:
        predictions: the table.
        empirical: the table.
    """
    # An accuracy criterion has no epsilon of its own: it stands beside every rule's prediction.
    measured = empirical.to_pylist()
    for row in measured:
        if not Bracket(row["threshold_lower"], row["threshold_upper"], row["reached"]).known:
            row["threshold"] = None
    return [
        {
            **{key: prediction[key] for key in ("run", "seed", "predictor", "operator", "epsilon_rule")},
            **{key: row[key] for key in ("method", "stage", "criterion")},
            **{f"predicted{end}": prediction[f"threshold{end}"] for end in _ENDS},
            **{f"empirical{end}": row[f"threshold{end}"] for end in _ENDS},
            "gap": None if row["threshold"] is None else prediction["threshold"] - row["threshold"],
        }
        for prediction in predictions.to_pylist()
        for row in measured
        if all(prediction[key] == row[key] for key in ("run", "seed", "method"))
        and row["epsilon_rule"] in ("", prediction["epsilon_rule"])
        and prediction["criterion"] == PREDICTORS[prediction["predictor"]].criterion_for(row["criterion"])
    ]


def limit_rows(thresholds: pa.Table, method: str) -> list[dict[str, Any]]:
    """Both limits of each network, as far as they were measured: rows for people.

    The predictions are those of the Hessian, or of the first other operator where the run has no Hessian.

    Args:
        thresholds: the table.
        method: whose limits.

    Returns:
        Rows of run, epsilon_rule, seed, limit, predictor, operator, predicted, predicted_lower, predicted_upper,
        empirical_lower, empirical_upper, gap, sorted by the first three. Where the limit's predictor did not run, it
        and all that follows from it are None.
    """
    limits = {(limit.stage, limit.criterion): (place, limit) for place, limit in enumerate(LIMITS)}
    found: dict[tuple, dict[str, Any]] = {}
    for row in sorted(thresholds.to_pylist(), key=lambda row: prediction_order("", row["operator"])):
        if row["method"] != method or (row["stage"], row["criterion"]) not in limits:
            continue
        place, limit = limits[row["stage"], row["criterion"]]
        guessed = row["predictor"] == limit.predictor
        line = {name: row[name] for name in ("run", "epsilon_rule", "seed")} | {"limit": limit.name}
        line |= {name: row[name] if guessed else None for name in ("predictor", "operator", "gap")}
        line |= {f"predicted{end}": row[f"predicted{end}"] if guessed else None for end in _ENDS}
        line |= {name: row[name] for name in ("empirical_lower", "empirical_upper")}
        key = row["run"], row["epsilon_rule"], row["seed"], place
        if key not in found or (guessed and found[key]["predictor"] is None):
            found[key] = line
    return [found[key] for key in sorted(found)]
