"""The architectures of the benchmark: the smallest member of every timm and torchvision family."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("timm", "torchvision")
MAX_PARAMS = 35_000_000
QUICK = {
    "timm": {"byobnet": "test_byobnet", "convnext": "test_convnext", "vision_transformer": "test_vit"},
    "torchvision": {"shufflenetv2": "shufflenet_v2_x0_5", "squeezenet": "squeezenet1_1"},
}


@dataclass(frozen=True)
class Model:
    """A network of the benchmark.

    source: "timm", "torchvision", or the stem of a file of factories.
    file: that file; empty for published networks.
    """

    source: str
    family: str
    name: str
    file: str = ""


def smallest(source: str) -> dict[str, tuple[str, int]]:
    """Family -> name and number of parameters of its smallest member."""
    members: dict[str, tuple[str, int]] = {}
    for family, name, count in {"timm": timm_members, "torchvision": torchvision_members}[source]():
        if family not in members or count < members[family][1]:
            members[family] = (name, count)
    return members


def timm_members() -> Iterator[tuple[str, str, int]]:
    import timm
    import torch

    from edgeoe.errors import first_line

    for family in timm.list_modules():
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
            except Exception as reason:
                what = f"{type(reason).__name__}: {first_line(reason)}"
                print(f"{name} can't be built on the meta device: {what}", flush=True)
                continue
            yield family, name, sum(parameter.numel() for parameter in model.parameters())


def torchvision_members() -> Iterator[tuple[str, str, int]]:
    from torchvision import models

    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        yield family, name, models.get_model_weights(name).DEFAULT.meta["num_params"]


def read_families(path: Path) -> dict[str, dict[str, tuple[str, int]]]:
    """The families in the file `path`; those of a source that it lacks are determined and added to it."""
    families = json.loads(path.read_text()) if path.exists() else {}
    for source in SOURCES:
        if source not in families:
            print(f"looking for the smallest member of each family of {source}", flush=True)
            families[source] = smallest(source)
            path.write_text(json.dumps(families, indent=1) + "\n")
    return families


def is_wanted(source: str, size: int) -> bool:
    return source != "timm" or size <= MAX_PARAMS
