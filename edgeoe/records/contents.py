"""Hashes of what a student is made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Contents"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Hexadecimal SHA-256 of everything that decides a student besides the settings; empty for what is not used.

    teacher: names, shapes and values of the teacher's tensors.
    weights: the file of its weights.
    code: the user's files that it is built from, by name.
    samples: names of all classes, and the labelled images and their labels, in order; a list narrows them.
    pool: files of OOD images, in order.
    """

    teacher: str
    weights: str
    code: str
    samples: str
    pool: str
