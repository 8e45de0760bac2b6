"""What tools/bench_line measured, on one line for each variant; --record appends it to the history."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from history import add_record_option, record

VARIANTS = ("oe", "no-oe")


def figures_of(variant: str, validation: dict[str, Any]) -> dict[str, float]:
    """The figures of one target in what `edgeoe deploy --json` wrote; of what was not measured there is none."""
    latency = validation["latency_ms"] or {}
    figures = {
        "top-1": validation["top1"],
        "rare recall": validation["rare_recall"],
        "p50_ms": latency.get("p50"),
        "p99_ms": latency.get("p99"),
    }
    return {f"{variant}: {name}": value for name, value in figures.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where tools/bench_line wrote")
    parser.add_argument("--given", default="", help="the options that it was given")
    add_record_option(parser)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for variant in VARIANTS:
        written = json.loads((options.folder / f"{variant}.json").read_text(encoding="utf-8"))
        own = figures_of(variant, written["targets"]["host-cpu"])
        print("   ".join(f"{name} {value:.4g}" for name, value in own.items()))
        figures |= own
    record(__file__, options, figures, packages=["torch", "onnxruntime"], without=["folder"])


if __name__ == "__main__":
    main()
