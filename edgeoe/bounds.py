"""Bounded number and text types, shared by records and settings."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen

__all__ = ["Fraction", "Positive", "Words"]

Fraction = Annotated[float, Ge(0), Le(1)]

Positive = Annotated[float, Gt(0), Lt(float("inf"))]

Words = Annotated[str, MinLen(1)]
