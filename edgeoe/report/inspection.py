"""Terminal output of `inspect`."""

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
    """Print what can be pruned, with the savings, then what can't be, with the reasons."""
    weights = ", random weights" if record.random_weights else ""
    size = "x".join(map(str, record.shape))
    figures = f"images of {size}, {record.macs / 1e6:.3f} M MACs, {record.params / 1e6:.3f} M parameters"
    say((record.teacher, "bold"), f"{weights}: {figures}")
    if record.latency_ms is not None and record.noise_ms is not None:
        say(f"{record.target}, here: {record.latency_ms:.3f} ms, repeated runs within {record.noise_ms:.3f} ms")
    groups = [group for group in record.groups if not group.refused]
    if groups:
        out.print(_groups_table(record, groups))
        if any(group.units != group.channels for group in groups):
            say(("units: the smallest prunable units, such as attention heads or groups of a convolution", "dim"))
    else:
        say(("no channels can be pruned", "yellow"))
    if record.blocks:
        out.print(_blocks_table(record))
    else:
        say("no residual block can be dropped")
    if record.latency_ms is not None:
        say(("latency -: within the measurement noise", "dim"))
    _show_head(record)
    show_left_alone({group.name: group.refused for group in record.groups if group.refused})
    show_left_alone(dict.fromkeys(record.untraced, "its outputs are the channels of no group"))
    say((f"inspected in {record.seconds:.0f} s", "dim"))


def _show_head(record: InspectRecord) -> None:
    if record.head is None:
        say(("head:", "yellow"), f" {record.unread}")
        return
    inputs = shortened(group.name for group in record.groups if record.head in group.consumers and not group.refused)
    mir = f" (--method mir also keeps its inputs: {inputs})" if inputs else ""
    say(f"head: {record.head}{mir}")
    say(f"features: {f'outputs of {record.features}' if record.features else 'inputs of the head'}")


def _groups_table(record: InspectRecord, groups: Sequence[GroupShare]) -> Table:
    rows = []
    for alike in _alike(groups):
        first = alike[0]
        tied = f" + {len(first.layers) - 1} tied" if len(first.layers) > 1 else ""
        rows.append((_label(alike) + tied, str(first.channels), str(first.units), *_shares(record, alike, groups)))
    header = ("producer", "channels", "units", "MACs", "parameters", "latency")
    return table("Prunable channels, and the savings from halving them", header[: len(rows[0])], rows)


def _blocks_table(record: InspectRecord) -> Table:
    rows = [(_label(alike), *_shares(record, alike, record.blocks)) for alike in _alike(record.blocks)]
    return table(
        "Droppable blocks, and their share",
        ("block", "MACs", "parameters", "latency")[: len(rows[0])],
        rows,
    )


def _alike(shares: Iterable[_Share]) -> list[list[_Share]]:
    """Rows of the table: shares of the same kind whose names differ only in numbers."""
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
    """The savings of a whole row in MACs, parameters and, if it was measured, latency."""
    macs = f"{100 * sum(share.macs_share or 0 for share in row):.1f} %"
    params = f"{100 * sum(share.params_share or 0 for share in row):.1f} %"
    if record.latency_ms is None or record.noise_ms is None:
        return macs, params
    of_kind = sum(share.latency_share or 0 for share in everything if share.alike == row[0].alike)
    if abs(of_kind * record.latency_ms) <= record.noise_ms:
        return macs, params, "-"
    return macs, params, f"{100 * sum(share.latency_share or 0 for share in row):.1f} %"
