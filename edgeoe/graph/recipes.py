"""Names of the int8 recipes; graph/quantize.py says what each is for."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["RECIPES", "Recipe"]

Recipe = Literal["int8-cpu", "int8-cpu-7bit", "int8-trt"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
