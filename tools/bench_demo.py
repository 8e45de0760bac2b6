"""What OE brings in the demo's setting and in others, on the demo's training digits: a Markdown table.

The ten sheets of training digits are cut into three parts. Each seed is tested on one part, which other people wrote
than what it is trained on. The demo's own seeds start at 0, and its test digits are not touched.

  tools/bench_demo.py                                            # the demo's setting, six draws
  tools/bench_demo.py few=30 method=kd,keep_macs=0.5 --seeds 1000 1001 1002
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from history import add_record_option, record

SHEETS = (0, 386, 776, 1287)  # where the three parts of the training digits begin; three, three and four sheets
FEW = {"30": (9, 6, 4, 3, 2, 2, 1, 1, 1, 1), "100": (31, 21, 15, 11, 7, 5, 4, 3, 2, 1)}  # counts beside the demo's


def main() -> None:
    from edgeoe.demo.draws import FIGURES, gains

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="*", default=[""], help="OPTION=VALUE,... that differ from the demo's")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(1000, 1006), help="draws, two at least")
    parser.add_argument("--teachers", type=Path, help="a folder to keep the three teachers in, and to take them from")
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options.teachers or Path(scratch))
        print(f"| setting | draws | {' | '.join(f'{name}: teacher / without / with OE' for name in FIGURES)} |")
        print(f"|{'---|' * (2 + len(FIGURES))}", flush=True)
        for setting in options.setting:
            name = setting or "the demo's"
            brought = gains([bench.draw(setting, seed) for seed in options.seeds])
            print(row(name, len(options.seeds), brought), flush=True)
            for figure, gain in brought.items():
                figures |= {
                    f"{name}, {figure}: with OE": gain.with_oe,
                    f"{name}, {figure}: OE's part": gain.difference.value,
                }
    record(__file__, options, figures, packages=["torch", "numpy", "scikit-learn"], without=["teachers"])


@dataclass(frozen=True)
class Bench:
    """Draws on the parts of the training digits, with one teacher for each part in `folder`."""

    folder: Path

    def draw(self, setting: str, seed: int) -> Any:
        """The demo's `Draw` of `seed`, in a setting of OPTION=VALUE,..."""
        import numpy as np
        import torch

        from edgeoe.demo.data import COUNTS, Digits, load_digits, write_images
        from edgeoe.demo.line import compare, demo_settings, read_test
        from edgeoe.demo.teacher import train_teacher
        from edgeoe.models.teacher import TeacherSource, load_teacher

        torch.set_num_threads(1)  # as the demo does
        given = options_of(setting)
        counts = FEW.get(given.pop("few", ""), COUNTS)
        known, _ = load_digits()
        testing = np.zeros(len(known.labels), bool)
        testing[SHEETS[seed % 3] : SHEETS[seed % 3 + 1]] = True
        train, test = (Digits(known.pixels[rows], known.labels[rows]) for rows in (~testing, testing))
        part = self.folder / f"part-{seed % 3}"
        part.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch)
            folders = write_images(out / "images", train=train, test=test, seeds=[seed], counts=counts)
            settings = demo_settings(part, folders)
            if not (part / "teacher.safetensors").is_file():
                train_teacher(settings)
            teacher = load_teacher(TeacherSource.parse(settings.teacher), settings.weights, classes=10)
            settings = replace(settings, seed=seed, **given)
            return compare(settings, out=out / "runs", teacher=teacher, test=read_test(folders))


def options_of(setting: str) -> dict[str, Any]:
    """{option: value} of OPTION=VALUE,OPTION=VALUE"""
    kinds = {"keep_macs": float, "steps": int, "batch": int, "ood": Path}
    pairs = (item.split("=", 1) for item in filter(None, setting.split(",")))
    return {name: kinds.get(name, str)(value) for name, value in pairs}


def row(setting: str, draws: int, brought: Mapping[str, Any]) -> str:
    """The means of each figure, and the difference that OE makes with its 95 % interval over draws."""
    cells = [setting, str(draws)]
    for gain in brought.values():
        means = " / ".join(f"{100 * value:.1f}" for value in (gain.teacher, gain.without_oe, gain.with_oe))
        value, low, high = (100 * getattr(gain.difference, end) for end in ("value", "low", "high"))
        cells.append(f"{means}: {value:+.1f} [{low:+.1f}, {high:+.1f}]")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
