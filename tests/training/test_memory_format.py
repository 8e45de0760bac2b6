"""Channels last where it works and is faster; the kernel that corrupts memory is never called."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers import layer_of
from torch import Tensor, nn

from edgeoe.training import memory_format
from edgeoe.training.memory_format import UnitStride, to_faster_format

SHAPE = (3, 16, 16)
CRASHING = """
import torch
import torch.nn.functional as F
from torch import nn
from edgeoe.training.memory_format import UnitStride, to_faster_format

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 8, 1, stride=2)
        self.weight = nn.Parameter(torch.randn(8, width, 1, 1))
        self.norm = nn.LayerNorm(width)
        self.tall = nn.Conv2d(width, 8, 1, stride=(2, 1))

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # channels last in any case
        z = self.down(y) + F.conv2d(input=y, weight=self.weight, stride=(2, 2), padding="valid")
        return z.mean((2, 3)) + self.tall(y).mean((2, 3))

torch.manual_seed(0)
for width in range(1, 9):
    for model in (Net(width), to_faster_format(Net(width), (3, 32, 32), trains=True)):
        for _ in range(3):
            with UnitStride():
                model(torch.randn(8, 3, 32, 32)).square().sum().backward()
"""


class Net(nn.Module):
    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def is_channels_last(model: nn.Module) -> bool:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    return bool(weights) and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine is: channels last is faster."""
    monkeypatch.setattr(memory_format, "_is_faster", lambda device: True)


def test_narrow_strided_convolutions_train_to_the_end() -> None:
    """In a process of its own: what this is about ends it by a signal."""
    ended = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-500:]


@pytest.mark.parametrize("stride", [2, (2,), (3, 2), (1, 2)])
@pytest.mark.parametrize("padding", [0, (0, 0), "valid", 1])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_numbers_are_the_same(stride: Any, padding: Any, groups: int) -> None:
    x, weight, bias = torch.randn(2, 12, 9, 8), torch.randn(4, 12 // groups, 1, 1), torch.randn(4)
    found = []
    for context in (torch.enable_grad(), UnitStride()):
        own = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        with context:
            y = F.conv2d(own[0], own[1], own[2], stride, padding, groups=groups)
        y.sin().sum().backward()
        found.append([y, *(tensor.grad for tensor in own)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_other_ranks_and_images_without_a_batch_are_the_same() -> None:
    cases = [(F.conv1d, torch.randn(2, 3, 8), (1,)), (F.conv3d, torch.randn(2, 3, 4, 6, 8), (1, 1, 1))]
    cases += [(F.conv2d, torch.randn(3, 6, 8), (1, 1))]
    for function, x, kernel in cases:
        weight = torch.randn(5, 3, *kernel)
        expected = function(x, weight, stride=2)
        with UnitStride():
            torch.testing.assert_close(function(x, weight, stride=2), expected, rtol=1e-4, atol=1e-4)


def test_other_convolutions_are_left_alone() -> None:
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)
    with UnitStride():
        assert torch.equal(F.conv2d(x, weight, stride=2, padding=1), F.conv2d(x, weight, None, 2, 1))


# The trial


@pytest.mark.usefixtures("faster")
def test_a_convolutional_network_computes_in_channels_last(network: Callable[[str], nn.Module]) -> None:
    model = copy.deepcopy(network("chain")).train().requires_grad_(True)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    found = to_faster_format(model, SHAPE, trains=True)
    assert found is model
    assert is_channels_last(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the trial left no trace"
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    outputs = layer_of(model, "0")(torch.randn(4, *SHAPE))
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_where_it_is_no_faster_it_stays(network: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "_is_faster", lambda device: False)
    assert not is_channels_last(to_faster_format(copy.deepcopy(network("chain")), SHAPE))


class Odd(nn.Module):
    """Breaks in the backward alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.view(len(gradient), -1).view_as(gradient))
        return x


STAYING: dict[str, Callable[[], nn.Module]] = {
    "view of a map": lambda: Net(
        lambda n, x: n.head(n.conv(x).view(x.size(0), -1)),  # type: ignore[operator]
        conv=nn.Conv2d(3, 4, 3, padding=1),
        head=nn.Linear(4 * 16 * 16, 3),
    ),
    "layout read as numbers": lambda: Net(
        lambda n, x: n.head(n.conv(x).as_strided((len(x), 16), (1024, 3))),  # type: ignore[operator]
        conv=nn.Conv2d(3, 4, 3, padding=1),
        head=nn.Linear(16, 3),
    ),
    "view in the backward": lambda: Net(
        lambda n, x: n.after(n.odd(n.conv(x))).mean((2, 3)),  # type: ignore[operator]
        conv=nn.Conv2d(3, 4, 3, padding=1),
        odd=Odd(),
        after=nn.Conv2d(4, 3, 3),
    ),
    "compiled code": lambda: Net(
        lambda n, x: n.down(n.conv(x)).mean((2, 3)),  # type: ignore[operator]
        conv=nn.Conv2d(3, 4, 3, padding=1),
        down=torch.jit.script(nn.Conv2d(4, 3, 1, stride=2)),
    ),
}


@pytest.mark.usefixtures("faster")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", STAYING)
def test_what_fails_in_channels_last_stays_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    assert not is_channels_last(to_faster_format(STAYING[name](), SHAPE, trains=True))


@pytest.mark.usefixtures("faster")
def test_only_the_weights_of_convolutions_move() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.volume = nn.Conv3d(1, 2, 3, padding=1)
            self.flat = nn.Conv2d(6, 4, 3, padding=1)
            self.filter = nn.Parameter(torch.randn(4, 16, 9, 2))
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.flat(self.volume(x[:, None]).flatten(1, 2))
            x = torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.filter), s=(16, 16))
            return self.head(x.mean((2, 3)))

    model = to_faster_format(Mixed(), SHAPE, trains=True)
    assert is_channels_last(model)
    assert model.filter.is_contiguous()  # type: ignore[operator]
    model(torch.randn(4, *SHAPE)).sum().backward()
