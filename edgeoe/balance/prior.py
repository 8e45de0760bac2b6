"""The complementary prior over classes and the class weights that follow from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeoe.errors import ConfigError, DataError

__all__ = ["class_weights", "complementary_prior"]


def complementary_prior(counts: Tensor, *, alpha: float | None = None) -> Tensor:
    """Label distribution that offsets the imbalance of `counts`.

    counts: (K,) samples per class, >= 0, not all zero.
    alpha: >= the largest share beta_j; None is max(beta) + min(beta).
    Returns (K,) probabilities (alpha - beta_j) / (K alpha - 1) that sum to 1, the
    rarest class highest; a balanced set gives the uniform distribution.
    Raises DataError if every count is zero, ConfigError for an alpha that is too small or not finite.
    Source: Wei et al., "Open-sampling", ICML 2022, the complementary distribution.
    """
    if counts.sum() <= 0:
        raise DataError("no samples in any class: the complementary prior needs at least one.")
    beta = counts.double() / counts.sum()
    largest = float(beta.max())
    chosen = float(beta.max() + beta.min()) if alpha is None else alpha
    if not largest - 1e-9 <= chosen < math.inf:
        raise ConfigError(
            f"[oe] alpha must be finite and at least the largest class's share, {largest:.4f}. Got {chosen}."
        )
    scale = len(beta) * chosen - 1
    if scale < 1e-9:  # balanced, and alpha is exactly every share: the limit is uniform
        return torch.full_like(beta, 1 / len(beta)).float()
    return ((chosen - beta).clamp(min=0) / scale).float()


def class_weights(prior: Tensor) -> Tensor:
    """(K,) weights omega_j = K Gamma_j of the classes, with mean 1, from the (K,) `prior`."""
    return prior * len(prior)
