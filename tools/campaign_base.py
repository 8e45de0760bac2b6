"""What a mutation campaign starts from: a run, its bundle and result, a baseline, and files that a user writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from campaign_inputs import NETWORK, QUICK
from PIL import Image

from edgeoe.devices.unpacked import read_facts, run_program
from edgeoe.measure.latency_table import write_table
from edgeoe.records.bundle import FORMAT, BundleFacts
from edgeoe.records.latency_table import FP32_TEACHER, TEACHER, LatencyTable
from edgeoe.targets.load import load_target

__all__ = ["CHECK_BUNDLE", "SUBJECTS", "Subject", "build_base", "check_bundle"]

CHECK_BUNDLE = "run.py"  # in place of a command: what the program of a bundle does before it builds
CLASSES = ("circle", "cross", "square")
JUDGED = f"{QUICK}\n[budget]\np50_ms = 1000\n"
BOARD = 'backend = "onnxruntime"\ndescription = "a board"\n\n[device]\nmachine = "aarch64"\n'
CONFIG = """\
[samples]
seed = 1

[compress]
teacher = "net.py:net"
samples = "few"
oe = false
keep_macs = "50%"
latency_ms = 2.0

[preprocess]
size = [16, 16]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[oe]
ood_weight = 0.5
"""
RUN_CONFIG = CONFIG.replace("latency_ms = 2.0\n", "channel_multiple = 1\nsteps = 2\nbatch = 4\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Files that are mutated, and the commands that read them.

    folder, pattern: where the files are; one of them is mutated.
    weight: share of the mutations.
    protected: a hash covers the files.
    renews_hashes: the folder is a run, in whose manifest the hash of a mutated file is often renewed.
    links: share of the mutations that put a link in place of the file.
    good: answers to the commands without any mutation.
    """

    name: str
    folder: str
    pattern: str
    weight: float
    commands: tuple[str, ...]
    protected: bool = False
    renews_hashes: bool = False
    links: float = 0.0
    good: dict[str, Any] = field(default_factory=dict)


STORED = "--target quick --stored"
SUBJECTS = (
    Subject(
        name="run",
        folder="run",
        pattern="**/*",
        weight=30,
        commands=(
            "report run",
            f"compare run run {STORED}",
            "baseline save run --target quick --store saved",
            "collect run result.json",
        ),
        protected=True,
        renews_hashes=True,
        links=0.15,
    ),
    Subject(
        name="result",
        folder=".",
        pattern="result.json",
        weight=25,
        commands=(
            "collect run result.json",
            f"compare result.json result.json {STORED}",
            "baseline save result.json --target quick --store saved",
        ),
    ),
    Subject(
        name="store",
        folder="store",
        pattern="**/*",
        weight=12,
        commands=(
            "baseline list --store store",
            "baseline show main --target quick --store store",
            f"compare main run {STORED} --store store",
        ),
        links=0.2,
    ),
    Subject(
        name="profile",
        folder="targets",
        pattern="quick.toml",
        weight=10,
        commands=("targets check quick", "targets list", f"compare run run {STORED}"),
    ),
    Subject(
        name="bundle", folder="bundle", pattern="**/*", weight=10, commands=(CHECK_BUNDLE,), protected=True, links=0.2
    ),
    Subject(name="image", folder="few", pattern="**/*.*", weight=12, commands=("samples few",), links=0.1),
    Subject(name="list", folder=".", pattern="few.txt", weight=5, commands=("samples few --list few.txt",)),
    Subject(name="config", folder=".", pattern="edgeoe.toml", weight=8, commands=("samples few", "baseline list")),
    Subject(name="classes", folder=".", pattern="names.json", weight=5, commands=("samples few --classes names.json",)),
    Subject(name="table", folder=".", pattern="table.json", weight=6, commands=("collect table.json",)),
)


def check_bundle() -> int:
    """Read ./bundle as its program does, and end as it does. Returns its exit code."""

    def check(*_: object) -> str:
        facts = read_facts(BundleFacts, Path("bundle"), format=FORMAT)
        return f"{facts.target.name}: {facts.size_bytes} bytes"

    return run_program(check, about="", out="result.json", arguments=[])


def build_base(base: Path) -> Path:
    """Write what a campaign starts from into the folder `base`, unless it is there. Returns the folder."""
    if (base / "complete").exists():
        return base
    shutil.rmtree(base, ignore_errors=True)
    (base / "targets").mkdir(parents=True)
    texts = {"net.py": NETWORK, "targets/quick.toml": JUDGED, "targets/board.toml": BOARD, "run.toml": RUN_CONFIG}
    for name, text in {**texts, "edgeoe.toml": CONFIG, "names.json": json.dumps(CLASSES)}.items():
        (base / name).write_text(text, encoding="utf-8")
    _write_images(base / "few")
    paths = sorted(path.relative_to(base / "few").as_posix() for path in (base / "few").rglob("*.*"))
    (base / "few.txt").write_text("\n".join(paths) + "\n", encoding="utf-8")
    for command in (
        "compress --config run.toml --weights random --out run",
        "export run",
        "build run --target quick",
        "validate run --target quick --test few",
        "baseline save run --target quick --store store",
        "bundle run --target quick --test few -o bundle.tar",
    ):
        _run(base, "-m", "edgeoe", *command.split())
    _unpack(base)
    _run(base, "bundle/run.py", "--out", "result.json")
    _write_table(base)
    (base / "complete").touch()
    return base


def _run(base: Path, *arguments: str) -> None:
    ended = subprocess.run([sys.executable, *arguments], cwd=base, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1, 3):
        raise SystemExit(f"{' '.join(arguments)}: {ended.stdout}{ended.stderr}")


def _write_images(folder: Path) -> None:
    """A few small images of every format and mode in a folder per class."""
    draw = np.random.default_rng(0)
    kinds = {"png": "RGB", "jpg": "RGB", "webp": "RGB", "bmp": "RGB", "tif": "RGB", "gif": "P", "a.png": "RGBA"}
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number, (suffix, mode) in enumerate(kinds.items()):
            image = Image.fromarray(draw.integers(0, 255, (20, 24, 3)).astype(np.uint8)).convert(mode)
            image.save(folder / name / f"{number}.{suffix}")


def _unpack(base: Path) -> None:
    with tarfile.open(base / "bundle.tar") as archive:
        archive.extractall(base, filter="data")
    (base / "edgeoe-quick").rename(base / "bundle")
    (base / "bundle.tar").unlink()


def _write_table(base: Path) -> None:
    target = load_target(str(base / "targets/board.toml"))
    latencies_ms = {TEACHER: 2.0, FP32_TEACHER: 2.0, "half": 1.25}
    environment = {"machine": "aarch64", "cpu": "Some CPU", "versions": {"onnxruntime": "1.30.0"}}
    write_table(
        base / "table.json",
        LatencyTable(network="0" * 64, target=target, environment=environment, latencies_ms=latencies_ms),
    )
