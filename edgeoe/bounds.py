"""Bounded number and text types, shared by records and settings."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen

__all__ = ["Count", "Fraction", "NotNegative", "Positive", "Words"]

Fraction = Annotated[float, Ge(0), Le(1)]

NotNegative = Annotated[float, Ge(0), Lt(float("inf"))]

Positive = Annotated[float, Gt(0), Lt(float("inf"))]

Count = Annotated[int, Ge(0)]

Words = Annotated[str, MinLen(1)]
