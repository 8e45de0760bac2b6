"""Which answers of a teacher are logits, and whether it answers each image for itself."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.models.outputs import check_outputs, check_rows

SHAPE = (3, 8, 8)


class Function(nn.Module):
    """A function of a tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Answer(nn.Module):
    """Answers two images with whatever it is given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize("classes", [3, None])
def test_good_logits_pass(classes: int | None) -> None:
    check_outputs(Answer(torch.zeros(2, 3)), (3, 8, 8), classes=classes)


@pytest.mark.parametrize("answer", [torch.zeros(3, 3), torch.zeros(2), torch.zeros(2, 3, 1), [torch.zeros(2, 3)]])
def test_any_number_of_classes_is_not_any_shape(answer: object) -> None:
    with pytest.raises(TeacherError, match=r"with logits \(2, classes\)\. Got "):
        check_outputs(Answer(answer), (3, 8, 8), classes=None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(2, 4), r"logits \(2, 3\), one per class folder\. Got \(2, 4\)\."),
        (torch.zeros(()), r"Got \(\)\."),
        ((torch.zeros(2, 3),), r"Got tuple\."),
        (torch.tensor([[0.0, 1, 2], [0, float("nan"), 1]]), "logits are not finite"),
        (torch.tensor([[0.0, 1, 2], [0, float("inf"), float("-inf")]]), "logits are not finite"),
    ],
    ids=["too many", "scalar", "tuple", "nan", "inf"],
)
def test_other_answers_are_refused(answer: object, said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        check_outputs(Answer(answer), (3, 8, 8), classes=3)


def test_a_teacher_that_fails_on_images_points_at_preprocess() -> None:
    with pytest.raises(
        TeacherError, match=r"fails on images of \(3, 16, 16\).*size, mean and std under \[preprocess\]"
    ):
        check_outputs(nn.Linear(4, 3), (3, 16, 16), classes=3)


def test_a_forward_that_converts_to_another_type_than_float32_is_told_so() -> None:
    network = nn.Sequential(Function(lambda x: x.bfloat16()), nn.Conv2d(3, 4, 3))
    with pytest.raises(TeacherError, match=r"fails on images .* Everything is computed in float32: let its forward"):
        check_outputs(network, SHAPE, classes=None)


@pytest.mark.parametrize(("channels", "needed"), [(1, "one value"), (3, "three values")])
def test_a_teacher_for_other_channels_says_which(channels: int, needed: str) -> None:
    teacher = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    said = rf"first convolution takes {channels} channel.*: give mean and std under \[preprocess\] {needed}"
    with pytest.raises(TeacherError, match=said):
        check_outputs(teacher, (4 - channels, 16, 16), classes=4)


# Each image for itself


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *middle, nn.Flatten(), nn.LazyLinear(3)).eval()


@pytest.mark.parametrize(
    "middle",
    [
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.Dropout(),
        Function(lambda x: x.relu_()),
        Function(lambda x: x.softmax(1)),
        Function(lambda x: x.flatten(0, 1).cumsum(1).view_as(x)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_images_that_are_answered_for_themselves_pass(middle: nn.Module) -> None:
    check_rows(network(middle), SHAPE)


@pytest.mark.parametrize(
    ("middle", "name"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm2d"),
        (Function(lambda x: x - x.mean(0)), "Function"),
        (Function(lambda x: x.softmax(0)), "Function"),
        (Function(lambda x: x / (1 + torch.std(x, 0, unbiased=False))), "Function"),
        (nn.Sequential(nn.ReLU(inplace=True), Function(lambda x: x.roll(1, 0))), "Function"),
    ],
    ids=["statistics", "mean", "softmax", "deviation", "neighbours, nested"],
)
def test_a_batch_whose_images_are_mixed_is_refused_with_the_module_that_mixes(middle: nn.Module, name: str) -> None:
    place = "1.1" if isinstance(middle, nn.Sequential) else "1"
    said = rf"mixes the images of a batch: .* largest is .*, first in {re.escape(place)} \({name}\)\. A device gets one"
    with pytest.raises(TeacherError, match=said):
        check_rows(network(nn.Sequential(nn.Identity(), middle[1]) if place == "1.1" else middle), SHAPE)  # type: ignore[index]


def test_a_forward_that_mixes_outside_of_modules_is_refused_without_a_name() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return y - y.mean(0)

    with pytest.raises(TeacherError, match=r"mixes the images of a batch: .* largest is [\d.e+-]+\. A device gets one"):
        check_rows(Mixing(), SHAPE)


def test_a_forward_that_is_random_in_eval_mode_is_refused_as_that() -> None:
    with pytest.raises(TeacherError, match=r"differently each time: .* under `if self\.training:` alone"):
        check_rows(network(Function(lambda x: x + torch.randn_like(x))), SHAPE)


def test_a_forward_for_a_fixed_number_of_images_is_refused() -> None:
    said = r"answers two images and fails on one: shape '\[2, 3\]' is invalid .*, e\.g\. x\.flatten\(1\)"
    with pytest.raises(TeacherError, match=said):
        check_rows(Function(lambda x: x.mean((2, 3)).view(2, 3)), SHAPE)
