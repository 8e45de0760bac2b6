"""The options that cuts and recoveries of edgeoe take: light, so that the command line can list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from edgeoe.bounds import Positive
from edgeoe.method import option

__all__ = ["BlockOptions", "ChannelOptions", "DistillationOptions", "FeatureOptions", "LogitOptions"]

_TEMPERATURE = "Distillation temperature."
_LR = "Learning rate at the start; it falls along a cosine."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Of cuts that prune channels."""

    widths: Literal["uniform", "global", "sensitivity"] = option(
        "Sparsity allocation: the same share of every layer, the channels of least relative norm wherever they are, or "
        "those whose loss adds the least reconstruction error.",
        "uniform",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOptions:
    """Of the cut that drops residual blocks."""

    recovery_steps: Annotated[int, Ge(0)] = option("Training steps of the adaptors around a block that is tried.", 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitOptions:
    """Of recoveries that fit the teacher's logits at a fixed learning rate."""

    temperature: Positive = option(_TEMPERATURE, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationOptions:
    """Of distillation. At a learning rate of 0.05 the logits of labelled samples tear a student apart."""

    temperature: Positive = option(_TEMPERATURE, 4.0)
    lr: Positive = option(_LR, 0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions:
    """Of feature mimicking. The paper trains 2,000 steps at a learning rate of 0.02."""

    lr: Positive = option(_LR, 0.05)
