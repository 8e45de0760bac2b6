"""The teacher: FILE.py:FACTORY, timm:NAME or torchvision:NAME, and its weights."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory
from edgeoe.models.classifier import only_logits, plain_weights
from edgeoe.models.returned import returned_network
from edgeoe.models.teacher_code import TeacherCode
from edgeoe.models.weights import load_weights, log_conversion
from edgeoe.pruning.attention import with_explicit_attention
from edgeoe.records.student import CodeFiles
from edgeoe.registry import nearest
from edgeoe.settings import Weights

__all__ = ["IN_MEMORY", "TeacherSource", "load_teacher"]

_log = logging.getLogger(__name__)
_SLOW_SECONDS = 10.0
_FORMS = "FILE.py:FACTORY, timm:NAME or torchvision:NAME"


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """Where an architecture comes from.

    kind: "file", "timm", "torchvision", or "module" for a network that is in memory.
    name: of the factory in the file, of the published architecture, or of the network's class.
    file: the user's file; None for other kinds.
    code: the code in that file and its neighbours; None for other kinds.
    module: the network in memory, weights and all; None for other kinds.
    """

    kind: str
    name: str
    file: Path | None = None
    code: TeacherCode | None = field(default=None, compare=False, repr=False)
    module: nn.Module | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.file is not None and self.code is None:
            object.__setattr__(self, "code", TeacherCode(self.file))

    @classmethod
    def parse(cls, text: str) -> TeacherSource:
        """Read `text` in one of its three forms. Raises TeacherError otherwise."""
        kind, _, name = text.rpartition(":")
        if kind in ("timm", "torchvision") and name:
            return cls(kind, name)
        if kind.endswith(".py") and name.isidentifier():
            return cls("file", name, Path(kind))
        if text.startswith(IN_MEMORY):
            raise TeacherError(
                f"--teacher {text}: a network that was in the memory of another process. Pass it again, in Python: "
                "edgeoe.compress(teacher=network, ...)."
            )
        raise TeacherError(f"--teacher must be {_FORMS}. Got {text!r}.")

    @classmethod
    def in_memory(cls, module: nn.Module) -> TeacherSource:
        """The network `module` itself; it stays as it is."""
        return cls("module", type(module).__name__, module=module)

    @classmethod
    def copied(cls, root: Path, only: CodeFiles, name: str) -> TeacherSource:
        """The factory `name` in a copy, at `root`, of a user's files."""
        return cls("file", name, root / only.file, TeacherCode.of_copy(root, only))

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file else f"{self.kind}:{self.name}"

    def build(self, classes: int, *, channels: int | None = None, pretrained: bool = False) -> nn.Module:
        """The architecture with `classes` outputs, on the CPU, in float32.

        channels: of its images; 1 asks for a greyscale network, None leaves it to the source.
        pretrained: with the published weights, which are downloaded (timm and torchvision).
        Raises TeacherError with what failed.
        """
        model = self._in_float32(self._create(classes, channels, pretrained))
        return only_logits(with_explicit_attention(plain_weights(model)), classes=classes)

    def _in_float32(self, model: nn.Module) -> nn.Module:
        try:
            return model.cpu().float()
        except (NotImplementedError, RuntimeError) as reason:  # it has no values: it lies on the device "meta"
            pass_on_out_of_memory(reason)
            raise TeacherError(f"--teacher {self}: can't be moved to the CPU: {first_line(reason)}") from reason

    def _create(self, classes: int, channels: int | None, pretrained: bool) -> nn.Module:
        """The architecture as its source builds it, in any type and on any device."""
        make: Callable[[int, int | None, bool], Any] = {
            "file": self._from_file,
            "timm": self._from_timm,
            "torchvision": self._from_torchvision,
            "module": lambda *_: copy.deepcopy(self.module),
        }[self.kind]
        try:
            with _say_if_slow(f"--teacher {self}"):
                model = make(classes, channels, pretrained)
        except TeacherError:
            raise
        except SystemExit as end:
            said = f" ({first_line(end)})" if isinstance(end.code, str) else ""
            raise TeacherError(
                f"--teacher {self}: it ends the program{said}. Does it read the command line? What a script does "
                'belongs under `if __name__ == "__main__":`.'
            ) from None
        except Exception as reason:
            pass_on_out_of_memory(reason)
            raise TeacherError(
                f"--teacher {self}: {self._explained(reason)}{_DOWNLOADED if pretrained else ''}"
            ) from reason
        return returned_network(model, source=f"--teacher {self}", factory="" if self.module else self.name)

    def _explained(self, reason: Exception) -> str:
        """The message of a foreign exception, and for a failed import what to do."""
        line = f"{type(reason).__name__}: {first_line(reason)}"
        if self.code is None:
            return line
        line = self.code.without_prefix(line)
        if isinstance(reason, ModuleNotFoundError) and reason.name:
            name = self.code.without_prefix(reason.name)
            return f"it imports {name}, which is neither installed nor beside {self.file}."
        if isinstance(reason, ImportError) and "relative import" in line:
            return f"{line}. An __init__.py makes a folder a package, and what lies beside that folder reachable."
        return line

    def _from_file(self, classes: int, channels: int | None, pretrained: bool) -> Any:  # noqa: ARG002 - one signature for all kinds
        assert self.file is not None  # noqa: S101 - what kind "file" means
        assert self.code is not None  # noqa: S101
        if not self.file.is_file():
            raise TeacherError(f"--teacher {self}: no file {self.file}.")
        with self.code.running():
            factory = self.code.factory(self.name)
            if factory is None:
                known = nearest(self.name, self.code.names())
                raise TeacherError(f"--teacher {self}: no function {self.name!r} there. {known}")
            return factory(**self._arguments(factory, classes, channels))

    def _arguments(self, factory: Callable[..., Any], classes: int, channels: int | None) -> dict[str, int]:
        """Keyword arguments for `factory`: those that edgeoe knows and it has a parameter for.

        Raises TeacherError if it needs others.
        """
        try:
            parameters = inspect.signature(factory).parameters
        except (TypeError, ValueError):  # written in C
            return {}
        known = {"num_classes": classes, **(dict.fromkeys(("in_chans", "in_channels"), 1) if channels == 1 else {})}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        given = {name: value for name, value in known.items() if name in parameters and parameters[name].kind in named}
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in variadic and name not in given
        ]
        if needed:
            passed = "".join(f"{name}={name}, " for name in given)
            raise TeacherError(
                f"--teacher {self}: {self.name} needs {', '.join(needed)}; edgeoe passes num_classes and, for grey "
                f"images, in_chans, where a function has them. Add one to {self.file}, e.g. def teacher"
                f"({', '.join(given)}): return {self.name}({passed}{needed[0]}=...), and name that."
            )
        return given

    def _from_timm(self, classes: int, channels: int | None, pretrained: bool) -> Any:
        import timm

        if not timm.is_model(self.name.split(".")[0]):
            raise TeacherError(f"--teacher {self}: timm has no such model. {nearest(self.name, timm.list_models())}")
        asked = {} if pretrained else {"num_classes": classes}
        if channels is not None and channels != 3:
            asked["in_chans"] = channels
        return timm.create_model(self.name, pretrained=pretrained, **asked)

    def _from_torchvision(self, classes: int, channels: int | None, pretrained: bool) -> Any:
        from torchvision import models

        if channels == 1:
            raise TeacherError(
                f"--teacher {self}: torchvision's networks take RGB images, and [preprocess] mean or std has one value "
                "(greyscale). Give three values each, and greyscale images are converted to RGB; or take a network of "
                "timm or a file of your own."
            )
        known = models.list_models(module=models)
        if self.name not in known:
            raise TeacherError(f"--teacher {self}: torchvision has no such classifier. {nearest(self.name, known)}")
        if pretrained:
            return models.get_model(self.name, weights="DEFAULT")
        return models.get_model(self.name, weights=None, num_classes=classes, **_NO_INIT.get(self.name, {}))

    def preprocess(self, model: nn.Module) -> Preprocess | None:
        """The preprocessing that a published architecture was trained with, as far as `model` says; None if unknown."""
        if self.kind == "timm" or (self.module is not None and isinstance(_config(model), dict)):
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


@contextmanager
def _say_if_slow(what: str) -> Iterator[None]:
    """A block that is logged if it takes longer than a user waits without a word."""
    timer = threading.Timer(_SLOW_SECONDS, _log.warning, (f"{what} has been building for {_SLOW_SECONDS:g} s ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _config(model: nn.Module) -> object:
    """What timm notes in its networks of how they were trained; None in others."""
    return getattr(model, "pretrained_cfg", None)


IN_MEMORY = "module:"  # begins the name of a network that is in memory
_DOWNLOADED = " Published weights are downloaded; name a file with --weights to do without, or try --weights random."
_TIMM_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
_NO_INIT: Mapping[str, Mapping[str, Any]] = {  # their slow weight initialisation is overwritten anyway
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "googlenet": {"init_weights": False, "aux_logits": False},
}


def load_teacher(
    source: TeacherSource,
    weights: Weights | None,
    *,
    classes: int,
    channels: int | None = None,
    key: str | None = None,
) -> nn.Module:
    """The teacher in eval mode on the CPU in float32, its parameters frozen.

    weights: a file; "random" for initial weights, drawn from torch's global generator; None for the published weights
        of a timm or torchvision name.
    classes: number of classes.
    channels: of its images; None leaves it to the source.
    key: which weights of a file with several; None takes those that fit.
    Raises TeacherError if weights and architecture don't match, or its outputs are not `classes`.
    """
    if weights is None and source.kind == "file":
        raise TeacherError(
            f"--weights is missing: {source} builds an architecture without weights. Name their file, or try things "
            "out with --weights random."
        )
    if key is not None and not isinstance(weights, Path):
        raise TeacherError(f"--weights-key {key} picks from a file: name it with --weights FILE.")
    model = source._create(classes, channels, pretrained=weights is None)
    log_conversion(f"--teacher {source}", model.state_dict())
    model = source._in_float32(model)
    if isinstance(weights, Path):
        load_weights(model, weights, key=key, architecture=str(source))
    model = only_logits(with_explicit_attention(plain_weights(model)), classes=classes)
    return model.eval().requires_grad_(False)
