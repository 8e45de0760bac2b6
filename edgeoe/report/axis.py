"""The scale of a chart, and figures as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Axis", "figure"]


@dataclass(frozen=True, slots=True)
class Axis:
    """The scale of a chart, from low to high; low < high."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Position of `value` in percent of the width, clipped to the ends."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """Three to eight round numbers within the scale."""
        third = (self.high - self.low) / 3
        power = 10.0 ** math.floor(math.log10(third))
        step = next(factor * power for factor in (5, 2, 1) if factor * power <= third * (1 + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def figure(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, without an exponent; a question mark for infinity."""
    if not math.isfinite(value):
        return "?"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, decimals)}f}"
