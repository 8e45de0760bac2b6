"""The teacher of the architecture benchmark: random weights that all matter, and pictures that it tells apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.settings import PreprocessSettings

ALIKE = 1e-3  # spread of the logits below which parity says little


class StageError(Exception):
    """A stage does not do what it should."""


def build_teacher(teacher: str, settings: PreprocessSettings, *, classes: int) -> tuple[nn.Module, Preprocess]:
    """The network that `teacher` names, with random weights that all matter, and its preprocessing.

    settings: what its source does not say.
    Raises StageError for outputs that are no finite logits, EdgeoeError as `compress` does.
    """
    torch.manual_seed(0)
    source = TeacherSource.parse(teacher)
    model = load_teacher(source, "random", classes=classes, channels=settings.channels)
    preprocess = Preprocess.resolve(source.preprocess(model), settings)
    randomise_constants(model)
    x = torch.from_numpy(preprocess.normalise(pictures(8, preprocess.shape)))
    settle(model, x)
    if float(spread(logits_of(model, x))) < ALIKE:
        strengthen(model)
        settle(model, x)
    return model, preprocess


def randomise_constants(model: nn.Module) -> None:
    """Randomise, in place, tensors of one value: freshly initialised networks zero whole branches with them."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator)
            scales = bool(tensor.any()) or (tensor.dim() == 1 and name.endswith("weight"))
            tensor.copy_(0.5 + noise if scales else 0.1 * (noise - 0.5))


def strengthen(model: nn.Module) -> None:
    """Scale, in place, weights of layers to He's standard deviation: of 0.02, what a deep network sees fades away."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.data
            weight.mul_((2 / weight[0].numel()) ** 0.5 / weight.std().clamp_min(1e-12))


def settle(model: nn.Module, x: Tensor) -> None:
    """Give batch norms, in place, the statistics of `x`: with made-up ones, what a deep network sees fades away."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def pictures(n: int, shape: tuple[int, int, int], *, seed: int = 0) -> NDArray[np.uint8]:
    """(n, C, H, W): coarse patches of random colours under noise, so that no two are alike to a network."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    coarse = rng.integers(0, 200, (n, channels, 4, 4))
    patches = coarse[:, :, np.arange(height)[:, None] * 4 // height, np.arange(width) * 4 // width]
    return (patches + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """(N, K) of images (N, C, H, W). Raises StageError if they are something else."""
    logits: Any = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise StageError(f"answers {len(x)} images with {got}")
    if not bool(logits.isfinite().all()):
        raise StageError("answers no finite numbers")
    return logits


def spread(logits: Tensor) -> str:
    """How different the answers are, as a share of the largest: parity on equal answers would say little."""
    return f"{float((logits - logits.mean(0)).abs().max() / logits.abs().max()):.1e}"
