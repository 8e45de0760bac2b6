"""The student's forward pass over a batch, in parts where the memory does not hold it at once."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgeoe.methods import View
from edgeoe.models.observation import Recorder

__all__ = ["DividedForward"]

_log = logging.getLogger(__name__)


class DividedForward:
    """Runs a network on batches, in as many parts as the memory needs.

    Of each part only the outputs are kept; the backward pass computes the rest again, part by part, so that loss and
    gradient are those of the whole batch but for rounding.
    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.

    module: as the fabric has set it up.
    inner: the network in it. If a part of it is in training mode, a batch can't be divided: batch norms there compute
        statistics of all rows.
    recorder: records the activations that a view has.
    """

    def __init__(self, module: nn.Module, inner: nn.Module, recorder: Recorder) -> None:
        self._module, self._inner, self._recorder = module, inner, recorder
        self._parts = 1

    def view(self, x: Tensor) -> View:
        """What the network computes of images x (N, C, H, W)."""
        if self._parts == 1:
            return self._view_of(x)
        views = [checkpoint(self._view_of, part, use_reentrant=False) for part in x.chunk(self._parts)]
        watched = zip(*(view.activations for view in views), strict=True)
        return View(torch.cat([view.logits for view in views]), tuple(torch.cat(parts) for parts in watched))

    def _view_of(self, x: Tensor) -> View:
        return View(self._module(x).float(), self._recorder.values())

    def halve(self, rows: int) -> bool:
        """Divide batches of `rows` images into twice as many parts, without gradients so far, and log it.

        Returns False if that is not possible.
        """
        if any(part.training for part in self._inner.modules()) or 2 * self._parts > rows:
            return False
        self._module.zero_grad(set_to_none=True)
        self._parts *= 2
        _log.warning(
            "out of memory with %d images at once: the student computes batches in %d parts, which takes longer and "
            "gives the same gradients but for rounding",
            -(-2 * rows // self._parts),
            self._parts,
        )
        return True
