"""The folder of a campaign: inputs of a tiny compression, the state after each command, and a folder for each trial."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from campaign_inputs import NETWORK, QUICK
from faults.commands import COMMANDS, SETUP, Command
from PIL import Image

__all__ = ["Workspace"]

_CONFIG = """\
[preprocess]
size = [16, 16]
mean = [0.4, 0.4, 0.4]
std = [0.3, 0.3, 0.3]

[{table}]
teacher = "{inputs}/network.py:net"
weights = "random"
samples = "{inputs}/train"
ood = "{inputs}/ood"
keep_macs = 0.5
channel_multiple = 1
steps = 2
batch = 4
accelerator = "cpu"
precision = "fp32"
"""
_SAME = ("student/*", "student*.onnx", "golden.safetensors", "targets/*/model.onnx")  # bit for bit in each run


class Workspace:
    """The inputs and states of a campaign, under `folder`; each is made once, and kept for the next start.

    seconds: what each command took undisturbed, by its name.
    products: what it made, as `products_in`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.inputs = self.folder / "inputs"
        self._facts = self.folder / "states.json"
        self.seconds: dict[str, float] = {}
        self.products: dict[str, dict[str, str]] = {}
        if self._facts.exists():
            self.seconds, self.products = json.loads(self._facts.read_text(encoding="utf-8"))
        else:
            self._write_inputs()

    def prepare(self, *names: str) -> None:
        """Run each of those commands once, undisturbed, after those that it needs; an empty name is of none."""
        for name in names:
            if name and name not in self.seconds:
                self._run_once(name)

    def trial(self, name: str, *, after: str) -> Path:
        """A fresh folder, in the state after that command; the fresh state if it is empty."""
        self.prepare(after)
        folder = self.folder / "trials" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "states" / after if after else self.inputs / "fresh", folder, symlinks=True)
        return folder

    def start(self, command: Command, folder: Path, *, before: Sequence[str] = (), **options: Any) -> Process:
        """Start a command in `folder`.

        before: what its command line begins with, as `unshare` takes it.
        options: of subprocess.Popen.
        """
        arguments = [word.replace("{inputs}", str(self.inputs)) for word in command.arguments]
        program = [sys.executable] if arguments[0].endswith(".py") else [sys.executable, "-m", "edgeoe"]
        return Process([*before, *program, *arguments], folder, self._environment(), **options)

    def run(self, command: Command, folder: Path) -> Process:
        """Run a command in `folder` to its end."""
        process = self.start(command, folder)
        process.wait()
        return process

    def products_in(self, folder: Path) -> dict[str, str]:
        """Hashes of the files that each undisturbed run makes alike, by name."""
        run = folder / "runs/a"
        files = sorted(path for pattern in _SAME for path in run.glob(pattern) if path.is_file())
        return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}

    def _environment(self) -> dict[str, str]:
        own = {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own}

    def _run_once(self, name: str) -> None:
        command = {**COMMANDS, **SETUP}[name]
        folder = self.trial(f"of-{name}", after=command.after)
        process = self.run(command, folder)
        if process.code not in command.codes:
            raise SystemExit(f"{name} ended with {process.code} without any disturbance:\n{process.stderr}")
        if name == "bundle":
            with tarfile.open(folder / "bundle.tar") as archive:
                archive.extractall(folder, filter="data")
        self.seconds[name], self.products[name] = process.seconds, self.products_in(folder)
        shutil.rmtree(self.folder / "states" / name, ignore_errors=True)
        folder.rename(self.folder / "states" / name)
        self._facts.write_text(json.dumps([self.seconds, self.products]), encoding="utf-8")

    def _write_inputs(self) -> None:
        rng = np.random.default_rng(0)
        for part, counts in (("train", (4, 3, 2)), ("test", (3, 3, 3)), ("ood", (12,))):
            for number, count in enumerate(counts):
                folder = self.inputs / part / f"class-{number}"
                folder.mkdir(parents=True, exist_ok=True)
                for image in range(count):
                    pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{image}.png")
        (self.inputs / "network.py").write_text(NETWORK, encoding="utf-8")
        fresh = self.inputs / "fresh"
        for folder in (fresh, self.folder / "states", self.folder / "trials", self.folder / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        tables = [_CONFIG.format(table=table, inputs=self.inputs) for table in ("compress", "deploy")]
        text = tables[0] + tables[1][tables[1].index("[deploy]") :]
        (fresh / "edgeoe.toml").write_text(text, encoding="utf-8")
        (fresh / "quick.toml").write_text(QUICK, encoding="utf-8")


class Process:
    """A command that was started, and how it ended."""

    def __init__(self, words: Sequence[str], folder: Path, environment: dict[str, str], **options: Any) -> None:
        self._began = perf_counter()
        options = {"stdout": subprocess.DEVNULL, **options}
        self._process = subprocess.Popen(
            words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, errors="replace", **options
        )
        self.code, self.stderr, self.seconds = 0, "", 0.0

    def wait(self, seconds: float = 900.0, then: Callable[[subprocess.Popen[str]], object] | None = None) -> None:
        """Wait for the end; after `seconds` call `then`, which disturbs it, or kills it by default."""
        try:
            _, self.stderr = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            (then or subprocess.Popen.kill)(self._process)
            _, self.stderr = self._process.communicate(timeout=900)
        self.code, self.seconds = self._process.returncode, perf_counter() - self._began
