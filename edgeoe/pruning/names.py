"""Names of layers in messages: those that differ only in numbers are written as one pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["by_reason", "labels", "pattern", "shortened"]

_NUMBER = re.compile(r"\d+")


def pattern(names: Iterable[str]) -> str:
    """One pattern for `names` that differ only in numbers: a number that is not the same in all becomes `*`.

    `blocks.0.fc1` and `blocks.1.fc1` give `blocks.*.fc1`, a glob that --include and --exclude take.
    """
    first, *others = names
    numbers = zip(*(_NUMBER.findall(name) for name in (first, *others)), strict=True)
    same = iter([column[0] if len(set(column)) == 1 else "*" for column in numbers])
    return _NUMBER.sub(lambda _: next(same), first)


def shortened(names: Iterable[str], *, most: int = 6) -> str:
    """`names` on one line, as patterns with the number of names each; patterns beyond `most` are only counted."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_NUMBER.sub("*", name), []).append(name)
    patterns = [
        f"{pattern(several)} ({len(several)})" if len(several) > 1 else several[0] for several in alike.values()
    ]
    more = sum(len(several) for several in [*alike.values()][most:])
    return ", ".join(patterns[:most]) + (f" and {more} more" if more else "")


def labels(kinds: Iterable[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """{names: a label of them on one line}, each label another's: as in `shortened`, or else the first names."""
    several = list(dict.fromkeys(map(tuple, kinds)))
    texts = [shortened(names) for names in several]
    return {
        names: text if texts.count(text) == 1 else _first_of(names) for names, text in zip(several, texts, strict=True)
    }


def _first_of(names: Sequence[str], *, most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def by_reason(refused: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """{reason: names} of {name: reason}, in the order in which reasons first occur."""
    reasons: dict[str, tuple[str, ...]] = {}
    for name, reason in refused.items():
        reasons[reason] = (*reasons.get(reason, ()), name)
    return reasons
