"""Every special form of a network that the tests know, by name: a file of factories, which other programs take too.

Three classes, images (N, 3, 16, 16). `FACTORIES` maps names to callables that build a network without arguments, with
random weights; each is an attribute of this module as well, for FILE.py:NAME. The files in forms/ need no neighbours,
so that each can be taken alone.
"""

from __future__ import annotations

from collections.abc import Callable

from forms import answers, attentive, convolutional, forwards, parameters
from torch import nn

__all__ = ["FACTORIES"]

FACTORIES: dict[str, Callable[[], nn.Module]] = {
    **convolutional.FACTORIES,
    **attentive.FACTORIES,
    **answers.FACTORIES,
    **forwards.FACTORIES,
    **parameters.FACTORIES,
}
globals().update(FACTORIES)
