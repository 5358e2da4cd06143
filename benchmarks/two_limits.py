"""What the study of the two limits says: its tables in docs/findings.md.

    python -m benchmarks.two_limits [DIRECTORY OF TABLES]

Reads `thresholds`, by default under results/reference/limits, and writes the generated sections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.findings import PAGE, ROOT
from benchmarks.reporting import markdown_table, replace_section
from gwprune.tables.files import read_table
from gwprune.tables.thresholds import LIMITS

TABLES = ROOT / "results" / "reference" / "limits"
# What is measured, and its name in the tables of the page.
MEASURED = {
    ("one_shot", "loss_tolerance"): "one-shot, data loss",
    ("one_shot", "objective_tolerance"): "one-shot, objective",
    ("fine_tuned", "control_loss_tolerance"): "fine-tuned, data loss",
    ("fine_tuned", "control_objective_tolerance"): "fine-tuned, objective",
}


def measured(thresholds: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``MEASURED``, with column `limit`, whether interval and bracket meet, and how far the value is off.

    `off` is the distance of the predicted value from the bracket, 0 inside of it; NaN where no end of it is known.
    """
    kept = [pair in MEASURED for pair in zip(thresholds.stage, thresholds.criterion, strict=True)]
    rows = thresholds[kept]
    limit = [MEASURED[pair] for pair in zip(rows.stage, rows.criterion, strict=True)]
    met = (rows.predicted_lower <= rows.empirical_upper) & (rows.empirical_lower <= rows.predicted_upper)
    off = np.maximum(rows.predicted - rows.empirical_upper, 0) + np.minimum(rows.predicted - rows.empirical_lower, 0)
    known = rows.gap.notna()
    return rows.assign(
        limit=limit, met=met & known, off=off.where(known), width=rows.predicted_upper - rows.predicted_lower
    )


def _bracket(row: pd.Series) -> str:
    if row.empirical_upper >= 1:
        return f"> {row.empirical_lower:.3f}"
    return f"{row.empirical_lower:.3f} to {row.empirical_upper:.3f}"


def limits_table(thresholds: pd.DataFrame) -> str:
    """Per run, seed and epsilon rule: both limits of magnitude pruning, measured and predicted by the Hessian."""
    rows = measured(thresholds[(thresholds.method == "magnitude") & (thresholds.operator == "hessian")])
    lines = []
    for (run, seed, rule), own in rows.groupby(["run", "seed", "epsilon_rule"]):
        line = {"run": f"`{run}`", "seed": seed, "epsilon": rule}
        for limit in LIMITS:
            of_limit = own[own.limit == MEASURED[limit.stage, limit.criterion]].set_index("predictor")
            line[f"{limit.name}, measured"] = _bracket(of_limit.iloc[0]) if len(of_limit) else ""
            for name in dict.fromkeys((limit.predictor, "quadratic" if limit.stage == "one_shot" else limit.predictor)):
                line[f"`{name}`"] = (
                    "{:.3f} [{:.3f}, {:.3f}]".format(
                        *of_limit.loc[name, ["predicted", "predicted_lower", "predicted_upper"]]
                    )
                    if name in of_limit.index
                    else ""
                )
        lines.append(line)
    return markdown_table(lines)


def agreement_table(thresholds: pd.DataFrame) -> str:
    """Per limit, kind of network and predictor: how far off, and how often interval and bracket meet."""
    rows = measured(thresholds[thresholds.method == "magnitude"])
    rows = rows.assign(kind=np.where(rows.run.str.endswith("_l1-0"), "no penalty", "l1 has emptied it"))
    lines = []
    for limit in MEASURED.values():
        for kind in ("l1 has emptied it", "no penalty"):
            part = rows[(rows.limit == limit) & (rows.kind == kind) & rows.gap.notna()]
            groups = part.groupby(["predictor", "operator"])
            for (predictor, operator), own in sorted(groups, key=lambda item: item[1].off.abs().mean()):
                lines.append(
                    {
                        "limit": limit,
                        "networks": kind,
                        "predictor": f"`{predictor}`, {operator}",
                        "mean distance": f"{own.off.abs().mean():.3f}",
                        "largest": f"{own.off.abs().max():.3f}",
                        "mean, signed": f"{own.off.mean():+.3f}",
                        "interval meets bracket": f"{own.met.sum()} of {len(own)}",
                        "interval's width": f"{own.width.mean():.3f}",
                    }
                )
    return markdown_table(lines)


def order_table(thresholds: pd.DataFrame) -> str:
    """Per run: one-shot limits of the methods, measured and as `quadratic` predicts them, best first by measurement."""
    chosen = (thresholds.predictor == "quadratic") & (thresholds.operator == "hessian")
    rows = measured(thresholds[chosen & (thresholds.epsilon_rule == "batch_std")])
    rows = rows[rows.limit == "one-shot, data loss"]
    lines = []
    for run, own in rows.groupby("run"):
        means = own.groupby("method")[["empirical_lower", "predicted"]].mean().sort_values("empirical_lower")[::-1]
        if len(means) < 2:
            continue
        order = list(means.sort_values("predicted")[::-1].index)
        cells = [f"`{name}` {row.empirical_lower:.3f} ({row.predicted:.3f})" for name, row in means.iterrows()]
        lines.append(
            {
                "run": f"`{run}`",
                "measured (predicted), best first": ", ".join(cells),
                "predicted order": "the same"
                if order == list(means.index)
                else ", ".join(f"`{name}`" for name in order),
            }
        )
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="?", type=Path, default=TABLES, help="directory of Parquet tables")
    parser.add_argument("--page", type=Path, default=PAGE, help="markdown page to write")
    chosen = parser.parse_args()
    thresholds = read_table("thresholds", chosen.tables / "thresholds.parquet").to_pandas()
    for name, table in (("limits", limits_table), ("limits-agreement", agreement_table), ("limits-order", order_table)):
        replace_section(chosen.page, name, table(thresholds))


if __name__ == "__main__":
    main()
