"""What tells one network in memory from another, so that a run is known to be made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from types import CodeType

import torch
from torch import Tensor, nn

from edgeoe.models.teacher import IN_MEMORY

__all__ = ["fingerprint", "tensors_sha256"]

_PLAIN = (int, float, bool, str, type(None))


def fingerprint(model: nn.Module) -> str:
    """The name under which a run knows `model`: its class, and a hash of its modules, their code and its tensors.

    Another name means another network; a network whose forward reads more than its modules hold may keep its name.
    """
    digest = sha256()
    for part in _parts(model):
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"{IN_MEMORY}{type(model).__name__}:{digest.hexdigest()[:16]}"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of the names, types, shapes and values of `tensors`, in whatever order and layout."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _parts(model: nn.Module) -> Iterator[bytes]:
    for name, module in model.named_modules():
        plain = {
            key: value
            for key, value in vars(module).items()
            if key != "training" and (isinstance(value, _PLAIN) or _is_plain_list(value))
        }
        yield repr((name, type(module).__qualname__, sorted(plain.items()))).encode()
        yield _code(getattr(type(module).forward, "__code__", None))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield repr((name, tensor.dtype, tuple(tensor.shape))).encode()
        yield _bytes(tensor)


def _is_plain_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, _PLAIN) for one in value)


def _code(code: CodeType | None) -> bytes:
    """What a function does, wherever it stands."""
    if code is None:
        return b""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    constants = [repr(one) for one in code.co_consts if isinstance(one, _PLAIN)]
    return code.co_code + repr((code.co_names, constants)).encode() + b"".join(map(_code, inner))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if len(flat) else b""
