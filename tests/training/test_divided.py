"""A batch whose forward pass is computed in parts because memory ran out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.methods import TrainingTask, View
from edgeoe.models.observation import HookPoint
from edgeoe.settings import OESettings
from edgeoe.training.workbench import Workbench

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))


class Hungry(nn.Module):
    """A network that takes more memory than there is for more than `most` images with a gradient."""

    def __init__(self, norm: nn.Module, most: int = 10**9) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm, self.most = nn.Conv2d(3, 8, 3, stride=2), norm, most
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most and torch.is_grad_enabled() and self.conv.weight.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        logits: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits


def apart(student: View, teacher: View) -> Tensor:
    features = (student.activations[0] - teacher.activations[0]).square().mean(1)
    return features + (student.logits - teacher.logits).square().mean(1)


def trained(student: nn.Module, pictures: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights of `student` after three steps of 8 samples and 8 OOD images."""
    teacher = Hungry(nn.GroupNorm(2, 8)).eval().requires_grad_(False)
    torch.nn.init.normal_(teacher.head.weight)
    bench = Workbench(
        teacher,
        lambda: (load_samples(find_samples(pictures / "train"), PREPROCESS), load_pool(pictures / "ood", PREPROCESS)),
        shape=PREPROCESS.shape,
        plan=OESettings(holdout=0.0, **changes),
        fabric=Fabric(accelerator="cpu", devices=1, precision="32-true"),
        batch=8,
        padding=2,
    )
    task = TrainingTask(
        name="test", distance=apart, lr=0.05, max_steps=3, label_weight=1.0, watch=(HookPoint("head", "input"),),
        batch_statistics=True,
    )  # fmt: skip
    bench.fit(student, task)
    return student.state_dict()


@pytest.mark.parametrize(("most", "parts"), [(8, 2), (5, 4), (2, 8)])
@pytest.mark.parametrize("separate", [False, True])
def test_parts_give_the_same_weights_but_for_rounding(
    most: int, parts: int, separate: bool, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"separate_statistics": separate}
    whole = trained(Hungry(nn.GroupNorm(2, 8)), pictures, **changes)
    caplog.clear()
    divided = trained(Hungry(nn.GroupNorm(2, 8), most), pictures, **changes)
    for name, tensor in whole.items():
        assert torch.allclose(divided[name], tensor, rtol=1e-4, atol=1e-6), name
    before = Hungry(nn.GroupNorm(2, 8)).state_dict()
    assert not torch.allclose(whole["conv.weight"], before["conv.weight"], atol=1e-4), "it trained"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    needed = parts // 2 if separate else parts  # there, samples and OOD images have a forward pass each
    assert [line for line in told if "out of memory" in line] == [
        f"out of memory with {16 // (n // 2)} images at once: the student computes batches in {n} parts, which takes "
        "longer and gives the same gradients but for rounding"
        for n in (2, 4, 8)
        if n <= needed
    ]


def test_a_network_with_batch_norms_is_not_divided(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Statistics of half a batch would make another student."""
    with pytest.raises(torch.OutOfMemoryError):
        trained(Hungry(nn.BatchNorm2d(8), 8), pictures)
    assert caplog.messages == []


def test_other_errors_are_not_swallowed(pictures: Path) -> None:
    class Broken(Hungry):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and self.conv.weight.requires_grad:
                raise ValueError("no such thing")
            return super().forward(x)

    with pytest.raises(ValueError, match="no such thing"):
        trained(Broken(nn.GroupNorm(2, 8)), pictures)
