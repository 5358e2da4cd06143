"""What the study of the two limits says: its tables in docs/findings.md.

    python -m benchmarks.two_limits [DIRECTORY OF TABLES]

Reads `thresholds`, by default under results/reference/limits, and writes the generated sections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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
    """Rows of ``MEASURED``, with column `limit`."""
    kept = [pair in MEASURED for pair in zip(thresholds.stage, thresholds.criterion, strict=True)]
    rows = thresholds[kept]
    return rows.assign(limit=[MEASURED[pair] for pair in zip(rows.stage, rows.criterion, strict=True)])


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
    for name, table in (("limits", limits_table), ("limits-order", order_table)):
        replace_section(chosen.page, name, table(thresholds))


if __name__ == "__main__":
    main()
