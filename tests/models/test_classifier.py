"""Whatever a network hands over: logits alone, weights in one tensor."""

import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from edgeoe.models.checkpoint import load_student, save_student
from edgeoe.models.classifier import describe_outputs, only_logits, plain_weights
from edgeoe.models.outputs import check_outputs
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.pruning.prune import Pruned
from edgeoe.run.directory import Run


class Two(NamedTuple):
    aux: Tensor
    logits: Tensor


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class ModelOutput(OrderedDict[str, Any]):
    """As Hugging Face has it: a dictionary whose keys are attributes, too."""


LOGITS = torch.arange(6.0).view(2, 3)
OTHER, FEATURES, MAP = torch.full((2, 3), 9.0), torch.ones(2, 8), torch.ones(2, 4, 5, 5)
ANSWERS: dict[str, tuple[object, str]] = {
    "tensor": (LOGITS, ""),
    "tuple of one": ((LOGITS,), ""),
    "auxiliary head": ((LOGITS, OTHER), "[0] (2, 3), [1] (2, 3). Taken as logits: [0]"),
    "features first": ((FEATURES, LOGITS), "[0] (2, 8), [1] (2, 3). Taken as logits: [1]"),
    "map first": ([MAP, LOGITS], "[0] (2, 4, 5, 5), [1] (2, 3). Taken as logits: [1]"),
    "named tuple": (Two(OTHER, LOGITS), "aux (2, 3), logits (2, 3). Taken as logits: logits"),
    "auxiliary first": ({"aux": OTHER, "pred": LOGITS}, "aux (2, 3), pred (2, 3). Taken as logits: pred"),
    "dictionary": ({"out": LOGITS, "aux": OTHER}, "out (2, 3), aux (2, 3). Taken as logits: out"),
    "dictionary with logits": (
        ModelOutput(aux=OTHER, logits=LOGITS),
        "aux (2, 3), logits (2, 3). Taken as logits: logits",
    ),
    "object": (Output(None, LOGITS, (MAP,)), "logits (2, 3), hidden_states[0] (2, 4, 5, 5). Taken as logits: logits"),
    "nested": (({"logits": LOGITS}, MAP), "[0].logits (2, 3), [1] (2, 4, 5, 5). Taken as logits: [0].logits"),
}


class Answer(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize("name", ANSWERS)
def test_the_logits_are_taken_and_said(name: str) -> None:
    answer, said = ANSWERS[name]
    model = only_logits(Answer(answer), classes=3)
    assert torch.equal(model(torch.zeros(2, 3, 8, 8)), LOGITS)
    assert describe_outputs(model, torch.zeros(2, 3, 8, 8)).partition(". For another")[0] == said


@pytest.mark.parametrize("answer", [None, (), {"a": 1}, (MAP, MAP), (torch.zeros(2, 3, dtype=torch.long),)])
def test_what_holds_no_logits_stays(answer: object) -> None:
    model = only_logits(Answer(answer), classes=3)
    assert model(torch.zeros(2, 3, 8, 8)) is answer
    assert describe_outputs(model, torch.zeros(2, 3, 8, 8)) == ""


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head, self.aux = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x).mean((2, 3))
        return {"aux": self.aux(x), "logits": self.head(x)}


def test_copies_and_exporters_take_it_along() -> None:
    model = only_logits(Several(), classes=3).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    assert expected.shape == (2, 3)
    assert model.state_dict().keys() == Several().state_dict().keys()
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False)  # type: ignore[arg-type, unused-ignore]


# Weights


def masked(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


def twice(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


class Squared(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.square()


def squared(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Squared())


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "masks": masked,
    "weight norm, parametrised": parametrizations.weight_norm,
    "spectral norm, parametrised": parametrizations.spectral_norm,
    "both": twice,
    "a user's own": squared,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", WRAPPED)
def test_a_computed_weight_becomes_plain(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(WRAPPED[name](nn.Conv2d(3, 4, 3)), nn.Flatten(), WRAPPED[name](nn.Linear(144, 3)))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    x = torch.randn(2, 3, 8, 8)
    model.requires_grad_(not frozen)
    expected = model.eval()(x)
    found = plain_weights(model)
    torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-6)
    assert {name: p.shape for name, p in found.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert found.state_dict().keys() == plain.state_dict().keys()
    assert [type(module) for module in found.modules()] == [type(module) for module in plain.modules()]
    assert not any(module._forward_pre_hooks for module in found.modules())
    found.load_state_dict(plain.state_dict())
    copy.deepcopy(found).requires_grad_(True)(x).sum().backward()


def test_plain_weights_stay_as_they_are(network: Callable[[str], nn.Module]) -> None:
    model = copy.deepcopy(network("residual"))
    before = dict(model.named_parameters())
    assert all(before[name] is parameter for name, parameter in plain_weights(model).named_parameters())


# From the outside, and back into a run


def test_a_teacher_of_several_outputs_is_loaded_from_its_own_weights(
    teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = TeacherSource.parse(f"{teacher_file}:several")
    torch.manual_seed(1)
    outside = source._create(3, None, False).eval()
    torch.save(outside.state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher(source, tmp_path / "weights.pt", classes=3)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(teacher(x), outside(x)["logits"])
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert {name for name, _ in teacher.named_parameters() if name.startswith("wide")} == {"wide.weight", "wide.bias"}
    with caplog.at_level(logging.WARNING):
        check_outputs(teacher, (3, 16, 16), classes=3)
    assert "the teacher has several outputs: aux (2, 3), logits (2, 3). Taken as logits: logits." in caplog.text


def test_a_student_of_such_a_teacher_comes_back(
    pruned: Callable[..., Pruned], teacher_file: Path, tmp_path: Path
) -> None:
    student, run = pruned("several").model, Run(tmp_path / "run")
    x = torch.randn(4, 3, 16, 16)
    save_student(run, pruned("several"), TeacherSource.parse(f"{teacher_file}:several"), outputs=3, x=x)
    loaded = load_student(run)
    assert loaded(x).shape == (4, 3)
    assert torch.equal(loaded(x), student(x))
