"""A network that can't be trained is refused before any image is read."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.training.trial import check_trainable

SHAPE = (3, 8, 8)


class Network(nn.Module):
    """Two convolutions, a function between them, and a head."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.between(self.one(x))).mean((2, 3)))


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


class Unused(Network):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.mask = nn.Conv2d(4, 3, 1), nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize("build", [Network, Unused], ids=["plain", "with a part that never runs"])
def test_a_network_that_trains_passes_and_stays_as_it_is(
    build: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model = frozen(build())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_trainable(model, SHAPE)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(module.training for module in model.modules())
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in model.parameters())
    assert torch.get_rng_state().equal(state)
    assert caplog.text == ""


def test_a_layer_that_no_gradient_reaches_is_named(caplog: pytest.LogCaptureFixture) -> None:
    check_trainable(frozen(Network(torch.detach)), SHAPE)
    assert caplog.messages == [
        "no gradient reaches one, which training leaves as pruned: forward computes under torch.no_grad(), or through "
        ".data, .detach() or .numpy()."
    ]


class WithoutGradient(Network):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class AllButTheHead(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.two(self.one(x)).mean((2, 3))
        return self.head(y)


@pytest.mark.parametrize("build", [WithoutGradient, AllButTheHead])
def test_a_network_whose_layers_get_no_gradient_is_refused(build: Callable[[], nn.Module]) -> None:
    said = r"can't be trained: no gradient reaches its layers \(one, two.*torch\.no_grad\(\).*--method fskd"
    with pytest.raises(TeacherError, match=said):
        check_trainable(frozen(build()), SHAPE)


def test_a_step_that_fails_is_quoted() -> None:
    def spoil(x: Tensor) -> Tensor:
        y = x.sigmoid()
        y.mul_(2)  # the backward of a sigmoid needs what it has put out
        return y

    with pytest.raises(TeacherError, match=r"step of training fails with RuntimeError: one of the .*--method fskd"):
        check_trainable(frozen(Network(spoil)), SHAPE)


def test_what_differs_in_training_mode_is_not_run() -> None:
    class Auxiliary(Network):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return super().forward(x)

    check_trainable(frozen(Auxiliary()), SHAPE)
