"""Batch norms in training: which modules they are, and batch statistics over all processes where torch has no
SyncBatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgeoe.models.modes import eval_afresh

__all__ = ["SynchronisedBatchNorm", "train_batchnorms"]


def train_batchnorms(model: nn.Module) -> nn.Module:
    """`model`, in place, in eval mode but for its batch norms, which compute and collect the statistics of batches.

    So a student computes in training what it will compute on the device, and a network trains whose forward differs in
    training mode: auxiliary outputs, a loss instead of logits, targets that it needs there. Dropout and dropped paths
    stay off with them. A few hundred steps on few samples, towards a teacher in eval mode, need no such noise, and a
    distance between features would measure the noise as well.
    A module of any other class that keeps a running mean and variance counts as a batch norm; an instance norm does
    not, since it computes something else in eval mode.
    """
    for module in eval_afresh(model).modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm) or (
            not isinstance(module, nn.modules.instancenorm._InstanceNorm)
            and module._buffers.keys() >= {"running_mean", "running_var"}
        )
    return model


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(TorchFunctionMode):
    """Within this context every batch norm in training mode normalises over the rows of all processes.

    Every process must hold as many rows. It works on the function below the modules, so that subclasses
    such as timm's BatchNormAct2d keep what they add.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:  # and not torch.batch_norm: what it calls no longer passes through here
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm of (N, C, ...) over all processes; the running statistics are updated in place."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = x.float()
    rows = wide.numel() // wide.shape[1] * dist.get_world_size()
    mean: Tensor = _SumOverProcesses.apply(wide.sum(dims)) / rows
    centred = wide - mean.view(shape)
    variance: Tensor = _SumOverProcesses.apply(centred.square().sum(dims)) / rows
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * rows / (rows - 1)).to(running_var.dtype), momentum)
    out: Tensor = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(x.dtype)
