"""The record of `inspect`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockShare", "GroupShare", "InspectRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """A group of coupled channels, and the savings from pruning half of it, as shares of the whole network.

    name: the first of `layers`, with a number if that layer produces several groups.
    layers: the producers of the channels.
    consumers: layers that take the channels as inputs.
    channels: number of channels of `name`.
    units: number of smallest prunable units (channels, heads, groups of a grouped convolution).
    alike: number of the kind of group: those of a kind have the same shapes and were timed together.
    macs_share, params_share, latency_share: the savings; None if refused, or if no latency was measured.
    refused: why the group can't be pruned; empty if it can.
    """

    name: str
    layers: tuple[str, ...]
    consumers: tuple[str, ...]
    channels: int
    units: int
    alike: int | None = None
    macs_share: float | None = None
    params_share: float | None = None
    latency_share: float | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShare:
    """A residual block that can be dropped, and the savings, as shares of the whole network.

    name: of its module.
    alike: number of the kind of block: those of a kind were timed together.
    macs_share, params_share, latency_share: the savings; no latency_share if it was not measured.
    """

    name: str
    alike: int
    macs_share: float
    params_share: float
    latency_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRecord:
    """The prunable parts of a teacher, and the savings from pruning them.

    teacher: its source.
    random_weights: whether its weights are random.
    shape: (C, H, W) of an image.
    macs, params: of the whole network.
    groups: every group of coupled channels, refused ones too.
    untraced: layers whose outputs are the channels of no group.
    blocks: residual blocks that can be dropped.
    head: the layer that outputs the logits; None if no single one does.
    features: the module whose output the head classifies after pooling; None if there is none.
    unread: why `head` is None; else empty.
    target: where latencies were measured; None if nowhere.
    latency_ms: of the whole network on `target`.
    noise_ms: range of repeated measurements of it.
    seconds: how long the inspection took.
    """

    teacher: str
    random_weights: bool
    shape: tuple[int, int, int]
    macs: int
    params: int
    groups: tuple[GroupShare, ...]
    untraced: tuple[str, ...]
    blocks: tuple[BlockShare, ...]
    head: str | None
    features: str | None
    unread: str
    target: str | None
    latency_ms: float | None
    noise_ms: float | None
    seconds: float
