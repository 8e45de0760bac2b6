"""What `inspect` found, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.table import Table

from edgeoe.pruning.names import pattern, shortened
from edgeoe.records.inspection import BlockShare, GroupShare, InspectRecord
from edgeoe.report.terminal import out, say, show_left_alone, table

__all__ = ["show_inspection"]

_Share = TypeVar("_Share", GroupShare, BlockShare)


def show_inspection(record: InspectRecord) -> None:
    """Print what can go and what that saves, then what must stay and why."""
    weights = ", random weights" if record.random_weights else ""
    size = "x".join(map(str, record.shape))
    figures = f"images of {size}, {record.macs / 1e6:.3f} M MACs, {record.params / 1e6:.3f} M parameters"
    say((record.teacher, "bold"), f"{weights}: {figures}")
    if record.latency_ms is not None and record.noise_ms is not None:
        say(f"{record.target}, here: {record.latency_ms:.3f} ms, several times within {record.noise_ms:.3f} ms")
    groups = [group for group in record.groups if not group.refused]
    if groups:
        out.print(_groups_table(record, groups))
        if any(group.units != group.channels for group in groups):
            say(("units: what goes at once is one of these, a head or a group of a convolution say", "dim"))
    else:
        say(("no channels can go", "yellow"))
    if record.blocks:
        out.print(_blocks_table(record))
    else:
        say("no residual block can go")
    if record.latency_ms is not None:
        say(("latency -: no more than the measurement's noise", "dim"))
    _show_head(record)
    show_left_alone({group.name: group.refused for group in record.groups if group.refused})
    show_left_alone(dict.fromkeys(record.untraced, "its outputs are the channels of no group"))
    say((f"looked at in {record.seconds:.0f} s", "dim"))


def _show_head(record: InspectRecord) -> None:
    if record.head is None:
        say(("head:", "yellow"), f" {record.unread}")
        return
    read = shortened(group.name for group in record.groups if record.head in group.consumers and not group.refused)
    mir = f" (--method mir also keeps what it reads: {read})" if read else ""
    say(f"head: {record.head}{mir}")
    say(f"features: {f'outputs of {record.features}' if record.features else 'inputs of the head'}")


def _groups_table(record: InspectRecord, groups: Sequence[GroupShare]) -> Table:
    rows = []
    for alike in _alike(groups):
        first = alike[0]
        tied = f" + {len(first.layers) - 1} tied" if len(first.layers) > 1 else ""
        rows.append((_label(alike) + tied, str(first.channels), str(first.units), *_shares(record, alike, groups)))
    header = ("channels made by", "channels", "units", "MACs", "parameters", "latency")
    return table("Channels that can go, and what halving them saves", header[: len(rows[0])], rows)


def _blocks_table(record: InspectRecord) -> Table:
    rows = [(_label(alike), *_shares(record, alike, record.blocks)) for alike in _alike(record.blocks)]
    return table(
        "Blocks that can go, and their share",
        ("block", "MACs", "parameters", "latency")[: len(rows[0])],
        rows,
    )


def _alike(shares: Iterable[_Share]) -> list[list[_Share]]:
    """Those of a kind, and of a name but for numbers, in one row."""
    rows: dict[object, list[_Share]] = {}
    for share in shares:
        rows.setdefault((share.alike, re.sub(r"\d+", "", share.name)), []).append(share)
    return list(rows.values())


def _label(alike: Sequence[GroupShare] | Sequence[BlockShare]) -> str:
    names = [share.name for share in alike]
    return pattern(names) + (f" ({len(names)})" if len(names) > 1 else "")


def _shares(
    record: InspectRecord, row: Sequence[_Share], everything: Sequence[_Share]
) -> tuple[str, str] | tuple[str, str, str]:
    """MACs, parameters and, where it was measured, latency that all of `row` save together."""
    macs = f"{100 * sum(share.macs_share or 0 for share in row):.1f} %"
    params = f"{100 * sum(share.params_share or 0 for share in row):.1f} %"
    if record.latency_ms is None or record.noise_ms is None:
        return macs, params
    of_kind = sum(share.latency_share or 0 for share in everything if share.alike == row[0].alike)
    if abs(of_kind * record.latency_ms) <= record.noise_ms:
        return macs, params, "-"
    return macs, params, f"{100 * sum(share.latency_share or 0 for share in row):.1f} %"
