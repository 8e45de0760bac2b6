"""What is said where a share that was asked for can't be met."""

from __future__ import annotations

import logging

from edgeoe.errors import said
from edgeoe.settings import Goal

__all__ = ["missed_note"]

_MEASURED = {"macs": "MACs", "params": "parameters", "blocks": "blocks that can be dropped"}
_log = logging.getLogger(__name__)


def missed_note(goal: Goal, kept: float, advice: str) -> str:
    """The note that `goal` is missed by more than 2 %; it is logged too, as hours of training may follow.

    kept: the share that the nearest student keeps.
    """
    note = f"{goal} can't be met within 2 %: the nearest student keeps {kept:.3g} of the {_MEASURED[goal.of]}. {advice}"
    _log.warning("%s", said(note))
    return note
