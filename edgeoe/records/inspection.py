"""The record of `inspect`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockShare", "GroupShare", "InspectRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """A group of coupled channels, and what pruning half of it saves, as shares of the whole network.

    name: the first of `layers`, with a number where that produces several groups.
    layers: the producers of the channels.
    consumers: layers that take the channels as inputs.
    channels: how many of them `name` has.
    units: how many smallest prunable units they form (channels, heads, groups of a grouped convolution).
    alike: a number for each kind of group: those of a kind have the same shapes and were timed together.
    macs_share, params_share, latency_share: what is saved; None if refused, or if no latency was measured.
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
    """A residual block that can be dropped, and what that saves, as shares of the whole network.

    name: of its module.
    alike: a number for each kind of block: those of a kind were timed together.
    macs_share, params_share, latency_share: what is saved; no latency_share if it was not measured.
    """

    name: str
    alike: int
    macs_share: float
    params_share: float
    latency_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRecord:
    """What of a teacher can be pruned, and what that saves.

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
    noise_ms: the range of several timings of it.
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
