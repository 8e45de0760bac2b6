"""What `inspect` measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockShare", "GroupShare", "InspectRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """Channels that go together, and what the network is rid of when half of them go, as shares of its whole.

    name: the first of `layers`, which make them; `consumers` take them in. channels: of that layer. units: what goes
    at once is one of these (a channel, a head, a group of a grouped convolution). alike: a number for each kind of
    group; those of a kind have the same shapes, and were timed at once. refused: why they stay; then no shares.
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
    """A residual block that can go, and what goes with it, as shares of the whole network."""

    name: str
    alike: int
    macs_share: float
    params_share: float
    latency_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRecord:
    """What `inspect` found.

    shape: (C, H, W) of an image. untraced: layers whose channels no group holds. head, features: None, and
    `unread` why, where no single layer makes the outputs. latency_ms, noise_ms: of the whole network on `target`, and
    by how much several measurements of it differed.
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
