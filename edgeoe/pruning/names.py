"""Names of layers, told briefly: those that differ in numbers alone as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["by_reason", "pattern", "shortened"]

_NUMBER = re.compile(r"\d+")


def pattern(names: Iterable[str]) -> str:
    """`names`, alike but for their numbers, as one; a number that is not the same in all becomes `*`.

    `blocks.0.fc1` and `blocks.1.fc1` are `blocks.*.fc1`, and so a glob that --include and --exclude take.
    """
    first, *others = names
    numbers = zip(*(_NUMBER.findall(name) for name in (first, *others)), strict=True)
    same = iter([own[0] if len(set(own)) == 1 else "*" for own in numbers])
    return _NUMBER.sub(lambda _: next(same), first)


def shortened(names: Iterable[str], *, most: int = 6) -> str:
    """`names` on one line, those alike as a pattern with their number; what exceeds `most` of these is counted."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_NUMBER.sub("*", name), []).append(name)
    told = [f"{pattern(own)} ({len(own)})" if len(own) > 1 else own[0] for own in alike.values()]
    left = sum(len(own) for own in [*alike.values()][most:])
    return ", ".join(told[:most]) + (f" and {left} more" if left else "")


def by_reason(refused: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """{reason: names} of {name: reason}, in the order in which the reasons come up."""
    reasons: dict[str, tuple[str, ...]] = {}
    for name, reason in refused.items():
        reasons[reason] = (*reasons.get(reason, ()), name)
    return reasons
