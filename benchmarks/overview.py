"""The figure of README.md: a prediction and its measurement, from the tables of one committed run.

python -m benchmarks.overview
"""

from __future__ import annotations

from pathlib import Path

from gwprune.figures import style
from gwprune.tables.files import read_table

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "results" / "reference" / "fashion_mnist"
PAGE = ROOT / "docs" / "figures" / "overview.svg"
RUN, SEED, LOW = "fc5_l1-3e-4", 0, 0.93


def rows_of(name: str, **equal: str) -> style.Rows:
    """Rows of a committed table for the run and seed that the figure shows."""
    return style.where(style.read_rows(read_table(name, TABLES / f"{name}.parquet"), run=RUN, **equal), seed=SEED)


def draw(path: Path = PAGE) -> None:
    """Left the width curve and its crossing, right the loss of the pruned network and its tolerance."""
    prediction = rows_of("predictions", predictor="width", operator="hessian")
    curve = rows_of("width_curves", operator="hessian")
    measured = rows_of("sweep", method="magnitude", stage="one_shot", split="train")
    keys = {"method": "magnitude", "stage": "one_shot", "criterion": "loss_tolerance"}
    limit = rows_of("empirical", **keys)
    blue, orange, green = style.COLOURS[:3]
    title = "A fully connected network (1,595,000 weights) on FashionMNIST: where does pruning break it?"
    with style.drawing(path, title, 9.2, 3.9) as figure:
        left, right = figure.subplots(1, 2)
        threshold = prediction["threshold"][0]
        shown = curve["sparsity"] >= LOW - 0.02
        s, width, lower, upper = (curve[name][shown] for name in ("sparsity", "width", "width_lower", "width_upper"))
        left.fill_between(s, lower, upper, color=blue, alpha=0.2, linewidth=0, label="interval of the width")
        left.plot(s, width, color=blue, label="width ω(s)")
        left.plot([LOW, 1], [LOW, 1], **style.DIAGONAL, label="ω = s")
        left.plot(threshold, threshold, "o", color=orange, label=f"predicted limit {threshold:.3f}", zorder=4)
        left.set(
            xlim=(LOW, 1),
            ylim=(LOW, 1),
            xlabel="sparsity s",
            ylabel="width ω",
            title="predicted from the network before pruning",
        )

        dense, epsilon = measured["loss"][measured["sparsity"] == 0][0], prediction["epsilon"][0]
        right.plot(measured["sparsity"], measured["loss"], "o-", ms=3.5, color=green, label="loss after pruning")
        right.axhline(dense, color="#555555", linestyle=":", label="loss before pruning")
        right.axhline(dense + epsilon, color=orange, linestyle="--", label=f"the same + tolerance ε = {epsilon:.3f}")
        low, high = limit["threshold_lower"][0], limit["threshold_upper"][0]
        right.axvspan(low, high, color=orange, alpha=0.4, linewidth=0, label=f"measured limit {low:.3f} to {high:.3f}")
        right.set(
            xlim=(LOW, 1),
            ylim=(0.2, 0.8),
            xlabel="sparsity s",
            ylabel="training loss (nats)",
            title="measured by pruning it",
        )
        for axes in (left, right):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


if __name__ == "__main__":
    draw()
