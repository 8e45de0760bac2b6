"""The plots of the OE benchmark."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path


def plot(rows: list[dict[str, str]], folder: Path, keep: float, steps: int) -> None:
    """accuracy.png: top-1 against N. recall.png: recall of each class against its number of samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [
        r
        for r in rows
        if "oe." not in r["method"] and r["kind"] != "none"
        if float(r["keep_macs"]) == keep and int(r["steps"]) == steps
    ]
    methods = sorted({row["method"] for row in rows})
    if not methods:
        return
    styles = {("balanced", "False"): ("C7", ":"), ("lt100", "False"): ("C3", "--"), ("lt100", "True"): ("C0", "-")}
    styles["balanced", "True"] = ("C2", "-.")
    figure, axes = plt.subplots(1, len(methods), figsize=(3.2 * len(methods), 3.4), sharey=True, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        for (kind, oe), (colour, line) in styles.items():
            points = defaultdict(list)
            for row in rows:
                if (row["method"], row["kind"], row["oe"]) == (method, kind, oe):
                    points[int(row["n"])].append(float(row["top1"]))
            if points:
                x = sorted(points)
                y = [statistics.mean(points[n]) for n in x]
                axis.plot(
                    x, y, line, color=colour, marker="o", ms=4, label=f"{kind}, {'OE' if oe == 'True' else 'no OE'}"
                )
        axis.set(title=method.replace(",", "\n"), xlabel="samples a class, on average", xscale="log")
        axis.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("top-1, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "accuracy.png", dpi=120)
    figure, axes = plt.subplots(1, len(methods), figsize=(3.2 * len(methods), 3.4), sharey=True, squeeze=False)
    smallest = min(int(row["n"]) for row in rows)
    for axis, method in zip(axes[0], methods, strict=True):
        for oe, colour in (("False", "C3"), ("True", "C0")):
            points = defaultdict(list)
            for row in rows:
                if (row["method"], row["kind"], row["oe"], int(row["n"])) == (method, "lt100", oe, smallest):
                    for count, recall in zip(json.loads(row["counts"]), json.loads(row["recalls"]), strict=True):
                        points[count].append(recall)
            if points:
                x = sorted(points)
                axis.plot(
                    x,
                    [statistics.mean(points[c]) for c in x],
                    "o-",
                    ms=4,
                    color=colour,
                    label="OE" if oe == "True" else "no OE",
                )
        axis.set(title=method.replace(",", "\n"), xlabel=f"samples of the class (lt100, N={smallest})", xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("recall, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "recall.png", dpi=120)
