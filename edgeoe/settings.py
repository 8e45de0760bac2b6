"""What a user can set: the settings of `compress`, and edgeoe.toml, which may hold every option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from edgeoe.errors import ConfigError
from edgeoe.registry import METHODS, nearest
from edgeoe.toml_document import TomlDocument

__all__ = ["CompressSettings", "Config", "OESettings", "PreprocessSettings"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSettings:
    """`[preprocess]`: what differs from the teacher's own preprocessing; None keeps the teacher's.

    size: (height, width) in pixels. mean, std: per channel, of images scaled to 0..1; one value for a
    greyscale network, three for RGB. crop_fraction: the part of the resized image that the central crop keeps.
    """

    size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Gt(0)], ...] | None = None
    interpolation: Interpolation | None = None
    crop_fraction: Annotated[float, Gt(0), Le(1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OESettings:
    """`[oe]`: how out-of-distribution images rebalance the loop, after Wu et al., arXiv 2502.05832.

    alpha: sharpness of the complementary prior; None is max(beta) + min(beta), as Open-sampling takes it.
    ood_weight: lambda, the weight of distillation on OOD rows.
    teacher_guided: weight OOD rows by how much the teacher sees rare classes in them.
    regulariser: eta, the weight of the class-dependent regulariser on OOD rows.
    ood_batch: OOD rows in a batch; None is as many as few samples.
    balanced_samples: draw the few samples class-balanced instead of as they are.
    holdout: share of the OOD pool kept for early stopping (at most 500 images); 0 turns it off.
    check_every, patience: steps between two checks, and checks without a better one before it stops.
    """

    alpha: float | None = None
    ood_weight: Annotated[float, Ge(0)] = 1.0
    teacher_guided: bool = True
    regulariser: Annotated[float, Ge(0)] = 0.01
    ood_batch: Annotated[int, Ge(1)] | None = None
    balanced_samples: bool = False
    holdout: Annotated[float, Ge(0), Le(0.5)] = 0.1
    check_every: Annotated[int, Ge(1)] = 50
    patience: Annotated[int, Ge(1)] = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressSettings:
    """Everything that decides which student `compress` makes.

    teacher: "FILE.py:FACTORY", "timm:NAME" or "torchvision:NAME". weights: safetensors or a state dict; None
    takes the published weights of a timm or torchvision name. keep_macs: share of the teacher's
    multiply-accumulates to keep. batch: few-sample rows in a batch. crop_padding: pixels of the random crop;
    None is an eighth of the image's height. node count and launcher: see `edgeoe compress --help`.
    """

    teacher: str
    samples: Path
    weights: Path | None = None
    list: Path | None = None
    ood: Path | None = None
    keep_macs: Annotated[float, Gt(0), Le(1)] = 0.5
    method: str = "kd"
    oe: bool = True
    seed: Annotated[int, Ge(0)] = 0
    steps: Annotated[int, Ge(1)] = 600
    batch: Annotated[int, Ge(2)] = 64
    lr: Annotated[float, Gt(0)] = 0.02
    temperature: Annotated[float, Gt(0)] = 4.0
    flip: bool = True
    crop_padding: Annotated[int, Ge(0)] | None = None
    channel_multiple: Annotated[int, Ge(1)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[int, Ge(1)] = 1
    nodes: Annotated[int, Ge(1)] = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    oe_settings: OESettings = field(default_factory=OESettings)

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong before anything is loaded. Raises ConfigError."""
        from pydantic import TypeAdapter, ValidationError

        if self.method not in METHODS:
            raise ConfigError(f"--method: unknown method {self.method!r}. {nearest(self.method, METHODS)}")
        if self.oe and self.ood is None:
            raise ConfigError(
                "--ood is missing: give a folder of any images to rebalance with, or pass --no-oe."
            )
        for f in dataclasses.fields(self):
            if "Annotated" not in str(f.type) and "Literal" not in str(f.type):
                continue
            kind = eval(str(f.type), globals())  # noqa: S307 - our own annotation, kept as text by __future__
            try:
                TypeAdapter(kind).validate_python(getattr(self, f.name), strict=True)
            except ValidationError as invalid:
                message = invalid.errors(include_url=False)[0]["msg"]
                option = f.name.replace("_", "-")
                raise ConfigError(
                    f"--{option}: {message[0].lower() + message[1:]}. Got {getattr(self, f.name)!r}."
                ) from None

    def to_toml(self) -> dict[str, Any]:
        """These settings as the tables of an edgeoe.toml, paths absolute, so that they mean the same anywhere."""
        tables: dict[str, Any] = {"compress": {}, "preprocess": {}, "oe": {}}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("preprocess", "oe_settings"):
                tables["oe" if f.name == "oe_settings" else f.name] = _without_none(dataclasses.asdict(value))
            elif value is not None:
                tables["compress"][f.name] = str(value.resolve()) if isinstance(value, Path) else value
        return tables


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None
    }


class Config:
    """An edgeoe.toml: one table a command, and [preprocess] and [oe].

    path: the file; None is ./edgeoe.toml where there is one, else no settings at all.
    commands: each command's options, so that an unknown key can be refused by file and line.
    """

    def __init__(self, path: Path | None, *, commands: Mapping[str, Mapping[str, type]]) -> None:
        default = Path("edgeoe.toml")
        self.path = path if path is not None else default if default.is_file() else None
        self._document = TomlDocument(self.path, error=ConfigError) if self.path else None
        self._commands = commands
        if self._document is not None:
            self._document.refuse_unknown("", self._document.tables, [*commands, "preprocess", "oe"])

    @property
    def preprocess(self) -> PreprocessSettings:
        """`[preprocess]`."""
        if self._document is None:
            return PreprocessSettings()
        return self._document.record("preprocess", PreprocessSettings)

    @property
    def oe(self) -> OESettings:
        """`[oe]`."""
        return self._document.record("oe", OESettings) if self._document else OESettings()

    def options(self, command: str) -> dict[str, Any]:
        """The options that `[command]` sets; relative paths are taken from the file's own folder."""
        if self._document is None or self.path is None:
            return {}
        known = self._commands[command]
        table = self._document.table(command)
        self._document.refuse_unknown(command, table, known)
        options: dict[str, Any] = {}
        for key, value in table.items():
            is_path = known[key] is Path or (key == "teacher" and ".py:" in str(value))
            options[key] = str(self.path.parent / value) if is_path else value
        return options
