"""The teacher: FILE.py:FACTORY, timm:NAME or torchvision:NAME, and its weights."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import TeacherError, first_line
from edgeoe.registry import nearest
from edgeoe.settings import Weights

__all__ = ["TeacherSource", "check_outputs", "load_numbers", "load_teacher", "read_weights"]

_FORMS = "FILE.py:FACTORY, timm:NAME or torchvision:NAME"


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """Where an architecture comes from. kind: "file", "timm" or "torchvision"; file: only for "file"."""

    kind: str
    name: str
    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> TeacherSource:
        """Read `text` in one of its three forms. Raises TeacherError otherwise."""
        kind, _, name = text.rpartition(":")
        if kind in ("timm", "torchvision") and name:
            return cls(kind, name)
        if kind.endswith(".py") and name.isidentifier():
            return cls("file", name, Path(kind))
        raise TeacherError(f"--teacher must be {_FORMS}. Got {text!r}.")

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file else f"{self.kind}:{self.name}"

    def build(self, classes: int, *, pretrained: bool = False) -> nn.Module:
        """The architecture with `classes` outputs, on the CPU.

        pretrained: with the published weights (timm and torchvision; they are downloaded).
        Raises TeacherError, naming what failed.
        """
        try:
            model = {"file": self._from_file, "timm": self._from_timm, "torchvision": self._from_torchvision}[
                self.kind
            ](classes, pretrained)
        except TeacherError:
            raise
        except Exception as reason:
            hint = (
                " Published weights are downloaded; name a file with --weights to do without, or try --weights random."
                if pretrained
                else ""
            )
            raise TeacherError(f"--teacher {self}: {type(reason).__name__}: {first_line(reason)}{hint}") from reason
        if not isinstance(model, nn.Module):
            raise TeacherError(f"--teacher {self}: must return a torch.nn.Module. Got {type(model).__name__}.")
        return model

    def _from_file(self, classes: int, pretrained: bool) -> Any:  # noqa: ARG002 - one signature for all kinds
        assert self.file is not None  # noqa: S101 - what kind "file" means
        if not self.file.is_file():
            raise TeacherError(f"--teacher {self}: no file {self.file}.")
        name = f"edgeoe_teacher_{self.file.stem}"
        spec = importlib.util.spec_from_file_location(name, self.file, loader=_SourceOnly(name, str(self.file)))
        if spec is None or spec.loader is None:
            raise TeacherError(f"--teacher {self}: {self.file} can't be imported as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickling inside the user's file look here
        folder = str(self.file.parent.resolve())
        sys.path.insert(0, folder)  # the file, and its factory, may import their neighbours
        try:
            spec.loader.exec_module(module)
            factory = getattr(module, self.name, None)
            if callable(factory):
                return factory()
        finally:
            sys.path.remove(folder)
        known = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise TeacherError(f"--teacher {self}: no function {self.name!r} there. {nearest(self.name, known)}")

    def _from_timm(self, classes: int, pretrained: bool) -> Any:
        import timm

        if not timm.is_model(self.name.split(".")[0]):
            raise TeacherError(f"--teacher {self}: timm has no such model. {nearest(self.name, timm.list_models())}")
        return timm.create_model(self.name, pretrained=pretrained, **({} if pretrained else {"num_classes": classes}))

    def _from_torchvision(self, classes: int, pretrained: bool) -> Any:
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            raise TeacherError(f"--teacher {self}: torchvision has no such classifier. {nearest(self.name, known)}")
        if pretrained:
            return models.get_model(self.name, weights="DEFAULT")
        return models.get_model(self.name, weights=None, num_classes=classes, **_NO_INIT.get(self.name, {}))

    def preprocess(self, model: nn.Module) -> Preprocess | None:
        """What the source says of its input images; None where it says nothing (a user's own file)."""
        if self.kind == "timm":
            from timm.data import resolve_data_config  # type: ignore[attr-defined, unused-ignore]

            data = resolve_data_config({}, model=model)
            return Preprocess(
                size=tuple(data["input_size"][1:]),
                mean=tuple(data["mean"]),
                std=tuple(data["std"]),
                interpolation=data["interpolation"] if data["interpolation"] in _TIMM_FILTERS else "bicubic",
                crop_fraction=data["crop_pct"],
            )
        if self.kind == "torchvision":
            from torchvision.models import get_model_weights

            transform = get_model_weights(self.name).DEFAULT.transforms()  # type: ignore[attr-defined, unused-ignore]
            crop, resize = transform.crop_size[0], transform.resize_size[0]
            return Preprocess(
                size=(crop, crop),
                mean=tuple(transform.mean),
                std=tuple(transform.std),
                interpolation=transform.interpolation.value,
                crop_fraction=crop / resize,
            )
        return None


class _SourceOnly(SourceFileLoader):
    """Runs the file that is there: a __pycache__ beside it is neither trusted nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_TIMM_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
_NO_INIT: Mapping[str, Mapping[str, Any]] = {  # their slow weight initialisation is overwritten anyway
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "googlenet": {"init_weights": False, "aux_logits": False},
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a file of `torch.save(model.state_dict(), ...)`.

    Wrappers such as {"state_dict": ...} and prefixes such as "module." are undone.
    Raises TeacherError for a missing file, a pickled object or anything that is no state dict.
    """
    if not path.is_file():
        raise TeacherError(f"--weights {path}: no such file.")
    state = _from_safetensors(path) if path.suffix == ".safetensors" else _from_torch_save(path)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise TeacherError(f"--weights {path}: holds no state dict of tensors. Got {type(state).__name__}.")
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # compiled and parallel, in either order
        if state and all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _from_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as reason:
        raise TeacherError(f"--weights {path}: not a safetensors file: {reason}") from None


def _from_torch_save(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise TeacherError(
            f"--weights {path}: a pickled object, which could run any code when loaded. Save the weights alone: "
            "torch.save(model.state_dict(), 'weights.pt'), or better, safetensors.torch.save_file."
        ) from None
    except Exception as reason:  # the unpickler raises nearly anything over a file that is none of its own
        what = f"{type(reason).__name__}: {first_line(reason)}"
        raise TeacherError(f"--weights {path}: not a file of torch.save: {what}") from None


def load_teacher(source: TeacherSource, weights: Weights | None, *, classes: int) -> nn.Module:
    """The teacher in eval mode on the CPU, its parameters frozen.

    weights: None takes the published weights of a timm or torchvision name; "random" those that the architecture
    starts with, drawn from torch's global generator.
    Raises TeacherError if weights and architecture don't match, or its outputs are not `classes`.
    """
    if weights is None and source.kind == "file":
        raise TeacherError(
            f"--weights is missing: {source} builds an architecture without weights. Name their file, or try things "
            "out with --weights random."
        )
    model = source.build(classes, pretrained=weights is None)
    if isinstance(weights, Path):
        _load_state(model, read_weights(weights), f"--weights {weights}", source)
    return model.eval().requires_grad_(False)


def _load_state(model: nn.Module, state: Mapping[str, Tensor], what: str, source: TeacherSource) -> None:
    own = model.state_dict()
    for key, tensor in state.items():
        if key in own and own[key].shape != tensor.shape:
            raise TeacherError(
                f"{what}: {key} is {tuple(tensor.shape)}, and {source} has {tuple(own[key].shape)} there "
                "(its outputs are as many as --samples has class folders, or as --classes says)."
            )
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        parts = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        parts += [f"{len(unknown)} unknown (first {unknown[0]})"] if unknown else []
        raise TeacherError(f"{what}: not the weights of {source}: {' and '.join(parts)}.")
    load_numbers(model, state)


def load_numbers(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`, which may lack of it only what it shares with what is there, and counters.

    Raises RuntimeError for other keys or shapes.
    """
    whole = model.state_dict()  # it knows the versions of its modules, which some ask for
    given = {whole[key].data_ptr() for key in state if key in whole}
    missing = [key for key in whole if key not in state and not key.endswith("num_batches_tracked")]
    lost = [key for key in missing if whole[key].data_ptr() not in given]
    if lost or state.keys() - whole.keys():
        raise RuntimeError(f"missing {lost[:3]}, unknown {sorted(state.keys() - whole.keys())[:3]}")
    whole.update(state)
    for key in missing:
        del whole[key]
    model.load_state_dict(whole, strict=False)


@torch.no_grad()
def check_outputs(teacher: nn.Module, shape: tuple[int, int, int], *, classes: int | None) -> None:
    """Run `teacher` on two black images of `shape` (C, H, W).

    classes: None takes any number. Raises TeacherError unless it answers with finite logits (2, classes).
    """
    try:
        logits = teacher(torch.zeros(2, *shape))
    except Exception as reason:
        raise TeacherError(
            f"the teacher fails on images of {shape} (channels, height, width): {first_line(reason)}. "
            "Check size, mean and std under [preprocess]."
        ) from reason
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or got != (2, classes or logits.shape[1]):
        expected = "(2, classes)" if classes is None else f"(2, {classes}), one per class folder"
        raise TeacherError(f"the teacher must answer 2 images with logits {expected}. Got {got}.")
    if not math.isfinite(logits.abs().sum().item()):
        raise TeacherError("the teacher's logits are not finite. Check its weights and [preprocess].")
