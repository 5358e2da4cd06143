"""What the committed comparison says about the paper's two claims: the tables of docs/findings.md.

    python -m benchmarks.findings [DIRECTORY OF TABLES]

Reads result tables, by default those under results/reference/fashion_mnist, and writes the generated sections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.reporting import markdown_table, replace_section
from gwprune.tables.files import read_table

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "results" / "reference" / "fashion_mnist"
PREDICTED = ["predicted", "predicted_lower", "predicted_upper"]
PAGE = ROOT / "docs" / "findings.md"


def with_agreement(thresholds: pd.DataFrame) -> pd.DataFrame:
    """Rows of one-shot global magnitude pruning.

    Column `met` says whether the predicted interval and the measured bracket have a point in common. Criteria are in
    the order of the columns of the page.
    """
    rows = thresholds[(thresholds.method == "magnitude") & (thresholds.stage == "one_shot")]
    met = (rows.predicted_lower <= rows.empirical_upper) & (rows.empirical_lower <= rows.predicted_upper)
    rows = rows.assign(met=met, accuracy=rows.criterion.str.startswith("accuracy"))
    return rows.sort_values(["run", "seed", "predictor", "operator", "accuracy", "criterion"])


def _cells(rows: pd.DataFrame) -> dict[str, str]:
    """An empty cell for every criterion, in the order of the columns."""
    return dict.fromkeys(rows.sort_values(["accuracy", "criterion"]).criterion, "")


def prediction_tables(thresholds: pd.DataFrame) -> str:
    """For every run a table: predictions of each seed beside the measured thresholds, with intervals.

    A predictor with another model for another criterion has another line.
    """
    text = []
    for run, part in with_agreement(thresholds).groupby("run"):
        lines = []
        for seed, own in part.groupby("seed"):
            lines.append({"seed": seed, "prediction [interval]": "**measured**", **_cells(part)})
            for row in own.drop_duplicates("criterion").itertuples():
                bracket = f"{row.empirical_lower:.3f} to {row.empirical_upper:.3f}"
                lines[-1][row.criterion] = bracket if row.empirical_upper < 1 else "never missed"
            for (predictor, operator, *ends), rows in own.groupby(["predictor", "operator", *PREDICTED]):
                value = "{:.3f} [{:.3f}, {:.3f}]".format(*ends)
                lines.append(
                    {"seed": "", "prediction [interval]": f"`{predictor}`, {operator}: {value}", **_cells(part)}
                )
                for row in rows.itertuples():
                    gap = "no gap" if np.isnan(row.gap) else f"{row.gap:+.3f}"
                    lines[-1][row.criterion] = f"{gap}{' (inside)' if row.met else ''}"
        text += [f"### `{run}`", "", markdown_table(lines)]
    return "\n".join(text)


def agreement_table(thresholds: pd.DataFrame) -> str:
    """For every run, predictor and criterion: in how many seeds interval and bracket meet, and the mean gap."""
    lines, rows = [], with_agreement(thresholds)
    for (run, predictor, operator), own in rows.groupby(["run", "predictor", "operator"]):
        width = (own.predicted_upper - own.predicted_lower).mean()
        lines.append({"run": f"`{run}`", "predictor": f"`{predictor}`", "operator": operator})
        lines[-1] |= {"interval's width": f"{width:.3f}", **_cells(rows)}
        for criterion, seeds in own.groupby("criterion", sort=False):
            gap = "no gap" if seeds.gap.isna().any() else f"{seeds.gap.mean():+.3f}"
            lines[-1][criterion] = f"{seeds.met.sum()} of {len(seeds)}, {gap}"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="?", type=Path, default=TABLES, help="directory of Parquet tables")
    parser.add_argument("--page", type=Path, default=PAGE, help="markdown page to write")
    chosen = parser.parse_args()
    thresholds, comparison = (
        read_table(name, chosen.tables / f"{name}.parquet").to_pandas() for name in ("thresholds", "comparison")
    )
    replace_section(chosen.page, "agreement", agreement_table(thresholds))
    replace_section(chosen.page, "predictions", prediction_tables(thresholds))
    parts = [f"### {name}\n\n{accuracy_table(comparison, name)}" for name in sorted(set(comparison.network))]
    replace_section(chosen.page, "accuracies", "\n".join(parts))


if __name__ == "__main__":
    main()
