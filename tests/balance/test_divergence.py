"""Training that comes to nothing is said, with what helps."""

import re
from contextlib import nullcontext
from typing import Any

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


@pytest.mark.parametrize(("usual", "limit"), [(3.0, 30_000.0), (0.5, 10_000.0), (0.0, 10_000.0)])
def test_outputs_may_be_10000_times_the_teachers_or_times_1(usual: float, limit: float, watch: Divergence) -> None:
    teacher = torch.tensor([[0.0, -usual], [usual / 2, 0.0]])
    watch.judge(torch.tensor([[0.0, 1.0], [-limit, 0.0]]), teacher)
    with pytest.raises(TrainingError, match="the student's outputs reach"):
        watch.judge(torch.tensor([[0.0, 1.0], [-1.01 * limit, 0.0]]), teacher)


@pytest.mark.parametrize(("lr", "smaller"), [(0.02, "0.002"), (0.5, "0.05"), (40.0, "0.05")])
def test_a_tenth_of_the_rate_is_advised_but_never_a_wild_one(lr: float, smaller: str) -> None:
    watch = Divergence(Fabric(accelerator="cpu", devices=1), name="Distilling", lr=lr, max_steps=25)
    with pytest.raises(TrainingError, match=rf"a learning rate of {lr:g}: .* such as --lr {re.escape(smaller)}\.$"):
        watch.judge(torch.tensor([[NAN]]), torch.tensor([[1.0]]))


@pytest.mark.parametrize("elsewhere", [0.0, 1.0])
def test_what_diverges_in_another_process_ends_this_one_too(elsewhere: float) -> None:
    class TwoProcesses:
        device = torch.device("cpu")

        def all_reduce(self, failures: torch.Tensor, *, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "sum"
            return failures + elsewhere

    fabric: Any = TwoProcesses()
    watch = Divergence(fabric, name="Distilling", lr=0.5, max_steps=1)
    with pytest.raises(TrainingError) if elsewhere else nullcontext():
        watch.note(torch.tensor(1.0), 1)
    with pytest.raises(TrainingError) if elsewhere else nullcontext():
        watch.judge(torch.tensor([[1.0]]), torch.tensor([[1.0]]))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 100.0])
def test_outputs_near_the_teachers_pass(scale: float, watch: Divergence) -> None:
    watch.judge(torch.tensor([[0.0, 20.0]]), scale * torch.tensor([[0.0, 2.0]]))
