"""Accelerator, precision and processes, through Lightning Fabric.

Fabric was chosen over Accelerate because it launches processes from a plain function call (`--processes 2`
needs no second program), follows torchrun where that started us, and leaves the loop a plain PyTorch loop.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from edgeoe.errors import ConfigError
from edgeoe.settings import CompressSettings
from edgeoe.training.batchnorm import SynchronisedBatchNorm

__all__ = ["automatic_precision", "new_fabric", "synchronised_batchnorm", "with_native_sync"]

_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def new_fabric(settings: CompressSettings) -> Fabric:
    """The Fabric that `settings` ask for, or that torchrun set up around us.

    Raises ConfigError for an accelerator or a precision that this machine does not have.
    """
    cuda = torch.cuda.is_available()
    if settings.accelerator == "cuda" and not cuda:
        raise ConfigError(
            "--accelerator cuda: no CUDA device here. Use --accelerator cpu; edgeoe doctor says what is missing."
        )
    accelerator: Literal["cpu", "cuda"] = "cuda" if cuda and settings.accelerator != "cpu" else "cpu"
    processes, nodes = settings.processes, settings.nodes
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if torchrun:  # it has started the processes and says how many
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // processes
    elif nodes > 1:
        raise ConfigError(
            f"--nodes {nodes}: start edgeoe on every node with torchrun --nnodes {nodes} --nproc-per-node "
            f"{processes} ... -m edgeoe compress ..."
        )
    if accelerator == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(f"--processes {processes}: this machine has {torch.cuda.device_count()} CUDA device(s).")
    for option, rows in (("batch", settings.batch), ("[oe] ood_batch", settings.oe_settings.ood_batch)):
        if rows is not None and rows % (processes * nodes):
            raise ConfigError(f"{option} must be a multiple of the {processes * nodes} processes. Got {rows}.")
    for logger in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # it announces what was asked for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")  # advice on its own settings
        return Fabric(
            accelerator=accelerator,
            devices=processes,
            num_nodes=nodes,
            strategy="auto" if processes * nodes == 1 else "ddp" if torchrun else "ddp_spawn",
            precision=_FABRIC_PRECISION[_precision(settings.precision, accelerator)],  # type: ignore[arg-type]
        )


def automatic_precision(accelerator: Literal["cpu", "cuda"]) -> str:
    """The fastest precision that `accelerator` really computes in: bf16, fp16 or fp32."""
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # elsewhere bf16 is emulated, slower than fp32
    return "bf16" if probe and probe() else "fp32"


def _precision(asked: str, accelerator: Literal["cpu", "cuda"]) -> str:
    best = automatic_precision(accelerator)
    if asked == "auto":
        return best
    if asked == "bf16" and best != "bf16":
        raise ConfigError("--precision bf16: this accelerator computes no bf16. Use --precision auto.")
    if asked == "fp16" and accelerator == "cpu":
        raise ConfigError("--precision fp16: the CPU trains in fp32 or bf16. Use --precision auto.")
    return asked


def synchronised_batchnorm(fabric: Fabric) -> AbstractContextManager[object]:
    """Batch statistics over all processes for the loop's duration, where torch's own module can't do it."""
    return SynchronisedBatchNorm() if fabric.world_size > 1 and fabric.device.type == "cpu" else nullcontext()


def with_native_sync(fabric: Fabric, model: nn.Module) -> nn.Module:
    """`model` with its batch norms turned into SyncBatchNorm where several GPUs share a batch."""
    if fabric.world_size == 1 or fabric.device.type == "cpu":
        return model
    from timm.layers import convert_sync_batchnorm  # knows timm's norm-and-activation modules too

    return convert_sync_batchnorm(model)  # type: ignore[no-any-return]
