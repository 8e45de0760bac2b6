"""Networks from a file of factories, and the folder in which one network goes through the line.

FACTORIES of such a file maps a name to a callable that returns a network; each is also an attribute of the module, for
FILE.py:NAME. Further constants are optional: SHAPES maps a name to (channels, height, width), and CLASSES a name to the
number of outputs of a network that has no parameter `num_classes`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from architecture_families import Model

from edgeoe.settings import PreprocessSettings

_SHAPE, _OUTPUTS = (3, 32, 32), 10  # of a network whose file does not say


@dataclass(frozen=True)
class Task:
    """One network, and how it goes through the line.

    folder: where everything is written.
    teacher: as an option of edgeoe.
    classes: number of its outputs.
    shape: (C, H, W) of an image; None is that of the published network.
    multiple: of widths; 0 is the target's.
    """

    folder: Path
    teacher: str
    classes: int = _OUTPUTS
    shape: tuple[int, int, int] | None = None
    multiple: int = 0

    @property
    def preprocess(self) -> PreprocessSettings:
        """What the network's source does not say."""
        if self.shape is None:
            return PreprocessSettings()
        channels, height, width = self.shape
        return PreprocessSettings(size=(height, width), mean=(0.5,) * channels, std=(0.25,) * channels)

    def save(self) -> None:
        asked = {**asdict(self), "folder": None}
        (self.folder / "task.json").write_text(json.dumps(asked))

    @classmethod
    def read(cls, folder: Path) -> Task:
        """The task that was saved in `folder`."""
        asked = json.loads((folder / "task.json").read_text())
        shape = asked["shape"] and tuple(asked["shape"])
        return cls(**{**asked, "folder": folder, "shape": shape})


def task_of(model: Model, folder: Path, *, multiple: int = 0) -> Task:
    """The task of `model` in `folder`; a network of a file is given to edgeoe as anyone would: FILE.py:NAME."""
    if not model.file:
        return Task(folder, f"{model.source}:{model.name}", multiple=multiple)
    networks = load_networks(Path(model.file))
    shape = getattr(networks, "SHAPES", {}).get(model.name, _SHAPE)
    classes = getattr(networks, "CLASSES", {}).get(model.name, _OUTPUTS)
    return Task(folder, f"{model.file}:{model.name}", classes, tuple(shape), multiple)


def networks_in(path: Path) -> list[Model]:
    """The networks of a file of factories; their source is called as the file."""
    return [Model(path.stem, name, name, str(path.resolve())) for name in load_networks(path).FACTORIES]


@cache
def load_networks(path: Path) -> Any:
    """The module in the file `path`, which may import its neighbours."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # noqa: S101 - it ends in .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
