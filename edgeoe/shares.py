"""Parsing of shares: 0.5 or 50%."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

__all__ = ["is_share", "read_share"]


def read_share(value: float | str) -> float:
    """Parse a number, or text such as 0.5 or 50%, as a fraction. Raises ValueError if it is neither."""
    text = str(value).strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"a share is written as 0.5 or 50%. Got {text!r}") from None


def is_share(hint: Any) -> bool:
    """Whether the type `hint`, or one of its alternatives, is a float of at most 1."""
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        return kind is float and any(getattr(bound, "le", None) is not None and bound.le <= 1 for bound in bounds)
    return any(is_share(part) for part in get_args(hint))
