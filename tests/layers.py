"""Layers of networks, for tests that look into them."""

from __future__ import annotations

from typing import Any

from torch import nn


def layer_of(model: nn.Module, name: str) -> Any:
    """The submodule of `model` called `name`, with whatever attributes its class has."""
    return model.get_submodule(name)
