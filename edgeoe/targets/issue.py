"""Issues of a profile."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Issue"]


@dataclass(frozen=True, slots=True)
class Issue:
    """A setting of a profile that its device, its runtime or edgeoe does not support.

    table: its table; "" is the top of the profile.
    key: its key in that table.
    message: what is wrong, and what to do about it.
    """

    table: str
    key: str
    message: str
