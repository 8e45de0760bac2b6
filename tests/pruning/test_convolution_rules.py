"""Transposed and deformable convolutions, and those with weights that are no parameters of a layer."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning.grouped import SHAPE, groups_of, refusals_of, without
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from edgeoe.models.checkpoint import apply_plan, plan_between


def seeded(*blocks: nn.Module, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes)).eval()
    network(torch.zeros(1, *SHAPE))
    return network


# Transposed


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_transposed_convolution_loses_inputs_and_outputs(groups: int) -> None:
    model = seeded(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 16, 2, 2, groups=groups), nn.ReLU())
    student = without(model, "0", (1,))
    up = student.get_submodule("1")
    assert isinstance(up, nn.ConvTranspose2d)
    assert up.in_channels == {1: 7, 2: 6, 8: 7}[groups] == student.get_submodule("0").out_channels
    assert up.groups == (7 if groups == 8 else groups)
    if groups < 8:
        student = without(model, "1", (1, 2))
        assert student.get_submodule("1").out_channels == 16 - 2 * groups == student.get_submodule("5").in_features


def test_of_a_transposed_convolution_inputs_lie_along_the_first_axis() -> None:
    groups = groups_of(seeded(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 5, 2, 2)))
    assert list(groups["0"].producers) == ["0"]
    assert list(groups["0"].consumers) == ["1"]
    assert list(groups["1"].producers) == ["1"]


@settings(max_examples=10)
@given(
    width=st.sampled_from([2, 4]),
    groups=st.sampled_from([1, 2, 4]),
    each=st.integers(1, 3),
    kernel=st.integers(1, 3),
    kind=st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]),
)
def test_any_convolution_without_channels_does_what_it_does_with_them_zeroed(
    width: int, groups: int, each: int, kernel: int, kind: type[nn.Module]
) -> None:
    layer = kind(width * groups, each * groups, kernel, groups=groups, padding=kernel // 2)
    model = seeded(nn.Conv2d(3, width * groups, 1), layer, nn.Conv2d(each * groups, 4, 1))
    for name, group in groups_of(model).items():
        if not group.refused and len(group.order) > 1:
            without(model, name, group.order[:1])


# Deformable


class Deformed(nn.Module):
    def __init__(self, parts: int) -> None:
        super().__init__()
        self.stem, self.offsets = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 18 * parts, 3, padding=1)
        self.deform = DeformConv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.deform(x, self.offsets(x))).mean((2, 3)))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_deformable_convolution_is_pruned_and_its_offsets_stay(parts: int) -> None:
    torch.manual_seed(0)
    model = Deformed(parts).eval()
    assert refusals_of(model)["offsets"] == "they steer a deformable convolution"
    student: Any = without(model, "deform", (0, 5))
    assert (student.deform.out_channels, student.deform.weight.shape[0]) == (4, 4)
    student = without(model, "stem", (0,))
    assert student.deform.in_channels == student.offsets.in_channels == 8 - parts


# Weights that are no parameters of a layer


class Blur(nn.Module):
    """A blur pool as timm has it (`shared`), or with a kernel for each channel."""

    def __init__(self, channels: int, *, shared: bool, persistent: bool, counted: bool) -> None:
        super().__init__()
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
        self.register_buffer("filt", kernel.repeat(1 if shared else channels, 1, 1, 1), persistent=persistent)
        self.channels = channels if counted else None

    filt: Tensor

    def forward(self, x: Tensor) -> Tensor:
        channels = self.channels or x.shape[1]
        return F.conv2d(x, self.filt.expand(channels, 1, 3, 3), stride=2, groups=channels)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(("shared", "counted"), [(True, False), (False, False), (False, True)])
def test_channels_pass_a_blur_pool(shared: bool, persistent: bool, counted: bool) -> None:
    blur = Blur(8, shared=shared, persistent=persistent, counted=counted)
    model = seeded(nn.Conv2d(3, 8, 1), blur, nn.ReLU())
    student: Any = without(model, "0", (1, 2, 5))
    assert len(student[1].filt) == (1 if shared else 5)
    rebuilt = seeded(nn.Conv2d(3, 8, 1), Blur(8, shared=shared, persistent=persistent, counted=counted), nn.ReLU())
    apply_plan(rebuilt, plan_between(rebuilt, student))
    rebuilt.load_state_dict(student.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt(x), student(x))


class Filtered(nn.Module):
    """A depthwise convolution whose kernels are computed from a parameter per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernels, self.head = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 1, 3, 3)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernels.flatten(1).softmax(1).view(-1, 1, 3, 3)
        return self.head(F.conv2d(self.stem(x), kernels, groups=len(kernels)).mean((2, 3)))


def test_a_kernel_that_is_computed_for_each_channel_goes_with_it() -> None:
    torch.manual_seed(0)
    student: Any = without(Filtered().eval(), "stem", (0, 3))
    assert student.kernels.shape == (6, 1, 3, 3)


def test_a_kernel_that_mixes_channels_is_refused_where_it_is_computed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.two, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4 * 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            kernels = self.two(x).mean((0, 2, 3)).view(4, 4, 1, 1)
            return self.head(F.conv2d(self.stem(x), kernels).mean((2, 3)))

    torch.manual_seed(0)
    assert refusals_of(Mixed().eval())["stem"] == "a convolution with computed weights mixes them"


# Local response norms


@pytest.mark.parametrize("size", [3, 5])
def test_channels_pass_a_local_response_norm(size: int) -> None:
    model = seeded(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(size), nn.Conv2d(8, 6, 1), nn.ReLU())
    groups = groups_of(model)
    assert {name: group.refused for name, group in groups.items()} == {
        "0": "", "3": "", "7": "they are the network's outputs"
    }  # fmt: skip
    assert list(groups["0"].consumers) == ["3"]
