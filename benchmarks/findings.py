"""What the committed runs say about the two limits and the paper's two claims: tables and figure of docs/findings.md.

    python -m benchmarks.findings [DIRECTORY OF RUNS]

Reads the tables of the runs under results/reference: of the limits, made by config/limits.yaml, and of the comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from benchmarks.reporting import markdown_table, replace_section
from gwprune.config.loading import load_file
from gwprune.config.runs import Run, expand
from gwprune.figures import style
from gwprune.tables.files import read_table
from gwprune.tables.terminal import MEASURED
from gwprune.tables.thresholds import LIMITS, bracket_text, interval_text

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
CONFIG = ROOT / "config" / "limits.yaml"
PAGE = ROOT / "docs" / "findings.md"
FIGURE = ROOT / "docs" / "figures" / "limits.svg"
NAMES = {limit.name: MEASURED[limit.stage, limit.criterion] for limit in LIMITS}
PENALTY = {True: "l1", False: "none"}
BUDGET = (5, 0.02)  # epochs and learning rate of fine-tuning where a table does not say otherwise


def recipe(run: Run) -> dict[str, object]:
    """What tells the networks of the study apart, and the budget of fine-tuning."""
    network = run.experiment.network
    options = {name: value for name, value in network.options.items() if name in ("width", "depth")}
    shape = f" ({', '.join(f'{name} {value:g}' for name, value in options.items())})" if options else ""
    long = f", {run.dense_epochs} epochs" if run.dense_epochs > 15 else ""
    penalty = f"l1 {run.l1:g}" if run.l1 else "no l1"
    tuning = run.fine_tuning()
    return {
        "network": f"{network.name}{shape}, {penalty}{long}",
        "l1": run.l1,
        "budget": (tuning["epochs"], tuning["lr"]),
    }


def unrest(sweep: pd.DataFrame) -> pd.Series:
    """By run and seed: how far further training lowers the dense network's training objective, in nats."""
    dense = sweep[(sweep.sparsity == 0) & (sweep.split == "train") & (sweep.method == "magnitude")]
    objective = dense.set_index(["run", "seed", "stage"]).objective
    return objective.xs("one_shot", level="stage") - objective.xs("fine_tuned", level="stage")


def measured(thresholds: pd.DataFrame, recipes: dict[str, dict[str, object]]) -> pd.DataFrame:
    """Rows of ``MEASURED`` with what the page tells of them.

    Args:
        thresholds: the table.
        recipes: run -> its ``recipe``.

    Returns:
        More columns: those of ``recipe``; `limit`; `off`, the distance of the predicted value from the measured
        bracket, 0 inside of it and NaN where the table gives no gap; `met`, whether interval and bracket share a point;
        `width` of the interval.
    """
    kept = [pair in MEASURED for pair in zip(thresholds.stage, thresholds.criterion, strict=True)]
    rows = thresholds[kept]
    limit = [MEASURED[pair] for pair in zip(rows.stage, rows.criterion, strict=True)]
    above = np.maximum(rows.predicted - rows.empirical_upper, 0)
    off = above + np.minimum(rows.predicted - rows.empirical_lower, 0)
    return rows.assign(
        **{name: [recipes[run][name] for run in rows.run] for name in ("network", "l1", "budget")},
        limit=limit,
        off=off.where(rows.gap.notna()),
        met=(rows.predicted_lower <= rows.empirical_upper) & (rows.empirical_lower <= rows.predicted_upper),
        width=rows.predicted_upper - rows.predicted_lower,
    )


def bracket(rows: pd.DataFrame) -> str:
    """The measured limit, which all of these rows have in common."""
    return bracket_text(*rows.iloc[0][["empirical_lower", "empirical_upper"]])


def prediction(rows: pd.DataFrame, predictor: str) -> str:
    """Value and interval of a predictor with the Hessian; nothing where the run did not ask for it."""
    own = rows[(rows.predictor == predictor) & (rows.operator == "hessian")]
    if own.empty:
        return ""
    row = own.iloc[0]
    return interval_text(row.predicted, row.predicted_lower, row.predicted_upper)


def limits_table(rows: pd.DataFrame, rest: pd.Series, epsilons: pd.Series) -> str:
    """Per network, seed and tolerance: both limits of the data loss, measured and predicted.

    Args:
        rows: by ``measured``.
        rest: by ``unrest``.
        epsilons: tolerance in nats by run, seed and rule.
    """
    lines = []
    for (network, seed, rule, run), own in rows.groupby(["network", "seed", "epsilon_rule", "run"]):
        one_shot, tuned = (own[own.limit == NAMES[limit.name]] for limit in LIMITS)
        lines.append(
            {
                "network": network,
                "seed": seed,
                "tolerance": rule,
                "unrest": f"{rest[run, seed] / epsilons[run, seed, rule]:z.1f}",
                "one-shot, measured": bracket(one_shot),
                "`width`": prediction(one_shot, "width"),
                "`quadratic`": prediction(one_shot, "quadratic"),
                "fine-tuned, measured": bracket(tuned),
                "`statistical_dimension`": prediction(tuned, "statistical_dimension"),
            }
        )
    return markdown_table(lines)


def agreement_table(rows: pd.DataFrame) -> str:
    """Per penalty and predictor: how far its value is off each limit, and how often its interval meets the bracket."""
    lines = []
    known = rows[rows.off.notna()]
    for penalty, name in PENALTY.items():
        groups = known[(known.l1 > 0) == penalty].groupby(["predictor", "operator"])
        for (predictor, operator), own in groups:
            line = {"penalty": name, "predictor": f"`{predictor}`, {operator}"}
            line |= {"interval's width": f"{own.width.mean():.3f}", **dict.fromkeys(MEASURED.values(), "")}
            for limit, part in own.groupby("limit"):
                line[limit] = f"{part.off.abs().mean():.3f} ({part.off.mean():+.3f}), {part.met.sum()} of {len(part)}"
            lines.append(line)
    return markdown_table(lines)


def budget_table(rows: pd.DataFrame, rest: pd.Series, epsilons: pd.Series) -> str:
    """Per network that was fine-tuned with several budgets: both criteria's limits at each.

    Args:
        rows: by ``measured``, of one epsilon rule.
        rest: by ``unrest``.
        epsilons: tolerance in nats by run, seed and rule.
    """
    lines = []
    for (network, seed), own in rows.groupby(["network", "seed"]):
        if own.budget.nunique() < 2:
            continue
        predicted = prediction(own, "statistical_dimension")  # one dense network, whatever comes after it
        for budget, part in own.groupby("budget"):
            run, rule = part.iloc[0][["run", "epsilon_rule"]]  # runs of one budget differ in what they predict
            data, objective = (part[part.limit == f"fine-tuned, {name}"] for name in ("data loss", "objective"))
            lines.append(
                {
                    "network": network,
                    "seed": seed,
                    "epochs": budget[0],
                    "lr": f"{budget[1]:g}",
                    "unrest": f"{rest[run, seed] / epsilons[run, seed, rule]:z.1f}",
                    "data loss": bracket(data),
                    "objective": bracket(objective),
                    "`statistical_dimension`": predicted,
                }
            )
    return markdown_table(lines)


def order_table(rows: pd.DataFrame) -> str:
    """Per network: one-shot limits of the methods, measured and as `quadratic` predicts them, best first.

    Args:
        rows: by ``measured``, of one epsilon rule and all methods.
    """
    chosen = (rows.predictor == "quadratic") & (rows.operator == "hessian") & (rows.limit == NAMES["one-shot"])
    lines = []
    for network, own in rows[chosen].groupby("network"):
        means = own.groupby("method")[["empirical_lower", "predicted"]].mean().sort_values("empirical_lower")[::-1]
        if len(means) < 2:
            continue
        order = list(means.sort_values("predicted")[::-1].index)
        cells = [f"`{name}` {row.empirical_lower:.3f} ({row.predicted:.3f})" for name, row in means.iterrows()]
        names = "the same" if order == list(means.index) else ", ".join(f"`{name}`" for name in order)
        lines.append({"network": network, "measured (predicted), best first": ", ".join(cells), "predicted": names})
    return markdown_table(lines)


def accuracy_table(comparison: pd.DataFrame, network: str) -> str:
    """Test accuracy of every method on a network, with and without l1, at the sparsities that were fine-tuned."""
    rows = comparison[comparison.network == network]
    columns = sorted(rows.sparsity[rows.stage == "fine_tuned"].unique())
    rows = rows[rows.sparsity.isin(columns)]
    best = rows.groupby("sparsity").accuracy_mean.transform("max")
    text = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(rows.accuracy_mean, rows.accuracy_std, strict=True)]
    text = np.where(rows.accuracy_mean == best, [f"**{cell}**" for cell in text], text)
    rows = rows.assign(text=text, order=-rows.l1)
    lines = []
    for (stage, method, order), part in rows.groupby(["stage", "method", "order"]):
        spent = sorted({round(epochs) for epochs in part.epochs})
        epochs = str(spent[0]) if len(spent) == 1 else f"{spent[0]} to {spent[-1]}"
        cells = dict(zip(part.sparsity, part.text, strict=True))
        lines.append({"stage": stage, "method": f"`{method}`", "l1": f"{-order:g}", "epochs": epochs})
        lines[-1] |= {f"{sparsity:g}": cells.get(sparsity, "") for sparsity in columns}
    return markdown_table(lines)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Per network and seed a line in each of two panels: the measured bracket, and predictions with their intervals.

    Args:
        rows: by ``measured``, of one epsilon rule and one budget.
        path: of the image.
    """
    rows = rows[rows.operator == "hessian"]
    places = {key: -place for place, key in enumerate(rows.groupby(["network", "seed"]).groups)}
    predictors = {"one-shot": ("width", "quadratic", "trace_bound"), "fine-tuned": ("width", "statistical_dimension")}
    looks = style.predictor_looks({name for names in predictors.values() for name in names})
    ends = rows[["empirical_lower", "predicted_lower"]].to_numpy().ravel()
    low, high = style.sparsity_limits([*ends, *rows.predicted])
    height, butt = 1.6 + 0.24 * len(places), {"solid_capstyle": "butt"}
    with style.drawing(
        [path], "The two limits of each network: measured, and predicted by the Hessian", 9.2, height
    ) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (name, shown) in zip(panels, predictors.items(), strict=True):
            own = rows[rows.limit == NAMES[name]]
            for (network, seed), part in own.groupby(["network", "seed"]):
                place, first = places[network, seed], part.iloc[0]
                edge = min(first.empirical_upper, high)
                axes.plot([first.empirical_lower, edge], [place, place], color="black", lw=8, alpha=0.3, **butt)
                axes.plot([first.empirical_lower, edge], [place, place], "|", color="black", ms=9, zorder=2)
                for shift, predictor in zip(np.linspace(0.18, -0.18, len(shown)), shown, strict=True):
                    for row in part[part.predictor == predictor].itertuples():
                        end = min(row.predicted_upper, high)
                        colour = looks[predictor]["color"]
                        axes.plot([row.predicted_lower, end], [place + shift] * 2, color=colour, lw=1)
                        axes.plot(row.predicted, place + shift, ls="", ms=4, **looks[predictor])
            style.sparsity_axis(axes, low, high)
            axes.set_title(name)
        grey = Line2D([], [], color="black", lw=8, alpha=0.3, label="measured, between the marks", **butt)
        style.legend(figure, [grey], *([Line2D([], [], ms=4, label=name, **look)] for name, look in looks.items()))
        panels[0].set_yticks(list(places.values()), [f"{network}, seed {seed}" for network, seed in places])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="?", type=Path, default=REFERENCE, help="directory of the runs `limits` and `fashion_mnist`"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="markdown page to write")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="image to write")
    chosen = parser.parse_args()
    thresholds, sweep, predictions = (
        read_table(name, chosen.runs / "limits" / f"{name}.parquet").to_pandas()
        for name in ("thresholds", "sweep", "predictions")
    )
    comparison = read_table("comparison", chosen.runs / "fashion_mnist" / "comparison.parquet").to_pandas()
    recipes = {name: recipe(run) for name, run in expand(load_file(CONFIG)).items()}
    rest, epsilons = unrest(sweep), predictions.groupby(["run", "seed", "epsilon_rule"]).epsilon.first()
    rows = measured(thresholds, recipes)
    magnitude, common = rows.method == "magnitude", rows.budget == BUDGET
    first = rows.epsilon_rule == "batch_std"
    several = rows[magnitude & common].groupby("run").epsilon_rule.transform("nunique") > 1
    sections = {
        "limits": limits_table(rows[magnitude & common & first], rest, epsilons),
        "limits-agreement": agreement_table(rows[magnitude & common & first]),
        "limits-tolerances": limits_table(
            rows[magnitude & common][several & ~first[magnitude & common]], rest, epsilons
        ),
        "limits-budgets": budget_table(rows[magnitude & first], rest, epsilons),
        "limits-order": order_table(rows[common & first]),
        "accuracies": "\n".join(
            f"### {name}\n\n{accuracy_table(comparison, name)}" for name in sorted(set(comparison.network))
        ),
    }
    for name, text in sections.items():
        replace_section(chosen.page, name, text)
    draw(rows[magnitude & common & first], chosen.figure)


if __name__ == "__main__":
    main()
