"""Networks in memory as programs: what is captured computes the same, and what is read calls nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.codec import from_json, to_json
from edgeoe.errors import TeacherError
from edgeoe.models.classifier import only_logits
from edgeoe.models.in_memory import fingerprint
from edgeoe.models.program import ProgramModule, capture
from edgeoe.records.program import Call, Program

Network = Callable[[str], nn.Module]


def rebuilt(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    program, tensors = capture(model, shape, name="it")
    return ProgramModule(from_json(Program, json.loads(json.dumps(to_json(program)))), tensors).eval()


@pytest.mark.parametrize(
    "name", ["residual", "chain", "scaled", "stages", "several", "timm:test_vit", "torchvision:shufflenet_v2_x0_5"]
)
def test_a_program_computes_what_its_network_does_for_any_number_of_images(
    network: Network, shape_of: Callable[[str], tuple[int, int, int]], name: str
) -> None:
    model = network(name)
    program = rebuilt(model, shape_of(name))
    with torch.no_grad():
        for images in (1, 2, 5):
            x = torch.randn(images, *shape_of(name), generator=torch.Generator().manual_seed(images))
            torch.testing.assert_close(program(x.clone()), model(x.clone()))
    parameters = dict(program.named_parameters())
    assert parameters.keys() <= dict(model.named_parameters()).keys()
    assert not any(parameter.requires_grad for parameter in parameters.values())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.head(x) if x.sum() > 0 else self.head(-x)


class Counting(nn.Module):
    """Its weights depend on the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3))) * (1.0 if len(x) < 4 else 2.0)


@pytest.mark.parametrize("kind", [Branching, Counting])
def test_what_torch_cannot_capture_is_refused_with_the_way_out(
    kind: type[nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        TeacherError, match=r"--teacher it: .* and that fails: .*Name a factory instead.*FILE\.py:FACTORY"
    ):
        capture(only_logits(kind().eval(), classes=3), (3, 16, 16), name="it")
    assert capfd.readouterr() == ("", "")


def call(function: str, *arguments: Any) -> Program:
    calls = (Call(name="y", function=function, arguments=arguments, named={}),)
    return Program(images="x", parameters=(), buffers=(), calls=calls, logits="y")


def test_a_program_may_call_arithmetic() -> None:
    program = call("aten.mul.Tensor", {"value": "x"}, 2)
    assert ProgramModule(program, {})(torch.ones(1)).item() == 2


@pytest.mark.parametrize(
    "function",
    [
        "aten.from_file.default",
        "aten.__class__.mro",
        "aten.conv2d.__class__",
        "aten.conv2d.__call__",
        "aten.nothing.default",
        "prims.add.default",
        "python.eval",
        "python.attrgetter",
        "os.system",
        "builtins.eval",
        "torch.load",
        "profiler._record_function_enter.default",
    ],
)
def test_a_program_calls_nothing_but_operators(function: str) -> None:
    with pytest.raises(ValueError, match="no operator"):
        ProgramModule(call(function, {"value": "x"}), {})


@pytest.mark.parametrize(
    "argument",
    [{"dtype": "load"}, {"module": "os"}, {"layout": "float32"}, {"memory_format": "nn"}, {"dtype": ["float32"]}],
)
def test_an_argument_is_nothing_but_data(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no argument of a program"):
        ProgramModule(call("aten.mul.Tensor", {"value": "x"}, argument), {})(torch.ones(1))


def test_tensors_are_those_that_the_calls_need() -> None:
    program, tensors = capture(
        only_logits(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), classes=3), (3, 2, 2), name="it"
    )
    del tensors["1.bias"]
    with pytest.raises(ValueError, match="not those of its calls"):
        ProgramModule(program, tensors)
    with pytest.raises(ValueError, match="not those of its calls"):
        ProgramModule(replace(program, parameters=()), tensors)


def test_a_fingerprint_tells_networks_apart() -> None:
    class Plain(nn.Module):
        def __init__(self, slope: float = 0.1) -> None:
            super().__init__()
            self.slope = slope
            self.head = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(self.head(x), self.slope)

    class Other(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(-self.head(x), self.slope)

    Other.__name__, Other.__qualname__ = Plain.__name__, Plain.__qualname__

    def seeded(kind: type[Plain], seed: int = 0, **options: Any) -> Plain:
        torch.manual_seed(seed)
        return kind(**options)

    known = fingerprint(seeded(Plain))
    assert known == fingerprint(seeded(Plain).eval().requires_grad_(False))
    assert known.startswith("module:Plain:")
    others = [seeded(Plain, 1), seeded(Plain, slope=0.2), seeded(Other), seeded(Plain).half()]
    assert len({known, *map(fingerprint, others)}) == 5


def test_a_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = (
        "import torch; from torch import nn; from edgeoe.models.in_memory import fingerprint; torch.manual_seed(0); "
        "print(fingerprint(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        for _ in range(2)
    }
    assert len(said) == 1
