"""Training that comes to nothing is said, with what helps."""

import re

import pytest
import torch
from lightning_fabric import Fabric

from edgeoe.balance.divergence import Divergence
from edgeoe.errors import TrainingError

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def watch() -> Divergence:
    return Divergence(Fabric(accelerator="cpu", devices=1), name="Distilling", lr=0.5, max_steps=25)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(("step", "said_at"), [(1, 10), (10, 10), (11, 20), (25, 25)])
def test_a_loss_that_is_no_number_ends_training_soon(bad: float, step: int, said_at: int, watch: Divergence) -> None:
    said = (
        f"Distilling: training diverged at a learning rate of 0.5: the loss is not finite after {said_at} of 25 steps. "
        "Try a smaller one, such as --lr 0.05."
    )

    def train() -> None:
        for steps in range(1, 26):
            watch.note(torch.tensor(bad if steps == step else 1.0), steps)

    with pytest.raises(TrainingError, match=f"{re.escape(said)}$"):
        train()


def test_a_finite_loss_goes_on(watch: Divergence) -> None:
    for steps in range(1, 26):
        watch.note(torch.tensor(1e30, requires_grad=True), steps)


@pytest.mark.parametrize("largest", [NAN, INF, 1e6])
def test_outputs_that_are_of_no_use_are_refused(largest: float, watch: Divergence) -> None:
    with pytest.raises(TrainingError, match=r"the student's outputs reach (nan|inf|1e\+06), its teacher's 2"):
        watch.judge(torch.tensor([[0.0, largest], [1.0, 2.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0]]))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 100.0])
def test_outputs_near_the_teachers_pass(scale: float, watch: Divergence) -> None:
    watch.judge(torch.tensor([[0.0, 20.0]]), scale * torch.tensor([[0.0, 2.0]]))
