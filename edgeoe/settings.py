"""What a user can set: the settings of `compress`, and edgeoe.toml, which may hold every option."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from edgeoe.bounds import Positive
from edgeoe.class_names import class_names, names_a_file
from edgeoe.errors import ConfigError
from edgeoe.registry import METHODS, nearest
from edgeoe.shares import is_share
from edgeoe.toml_document import TomlDocument

__all__ = [
    "CompressSettings",
    "Config",
    "Goal",
    "Interpolation",
    "OESettings",
    "PreprocessSettings",
    "Weights",
    "superseded",
    "weights_from_text",
    "with_home",
]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_GREATEST = 1.5  # mean or standard deviation: those of images scaled to 0..1 lie well below
Weights = Path | Literal["random"]  # a file, or fresh ones, to try things out


def weights_from_text(text: str) -> Weights:
    """Weights as a user names them: `random` is no file; a file that is really called so is ./random."""
    return "random" if text == "random" else Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSettings:
    """`[preprocess]`: what differs from the teacher's own preprocessing; None keeps the teacher's.

    size: (height, width) in pixels. mean, std: per channel, of images scaled to 0..1; one value for a
    greyscale network, three for RGB. crop_fraction: the part of the resized image that the central crop keeps.
    """

    size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    mean: tuple[Annotated[float, Gt(float("-inf")), Lt(float("inf"))], ...] | None = None
    std: tuple[Positive, ...] | None = None
    interpolation: Interpolation | None = None
    crop_fraction: Annotated[float, Gt(0), Le(1)] | None = None

    @property
    def channels(self) -> int | None:
        """Channels of an image, as mean and std have them; None where neither is given."""
        values = self.mean or self.std
        return len(values) if values else None

    def require_scaled(self) -> None:
        """Raises ConfigError if `mean` or `std` is that of images with values 0..255."""
        given = {"mean": self.mean or (), "std": self.std or ()}
        lists = {key: [*values] for key, values in given.items() if any(abs(value) > _GREATEST for value in values)}
        if lists:
            scaled = {key: [float(f"{value / 255:.4g}") for value in values] for key, values in lists.items()}
            raise ConfigError(
                f"[preprocess] mean and std are for images scaled to 0..1. Got {_as_text(lists)}, as for images of "
                f"0..255. Divide by 255: {_as_text(scaled)}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OESettings:
    """`[oe]`: how out-of-distribution images rebalance the loop, after Wu et al., arXiv 2502.05832.

    alpha: sharpness of the complementary prior; None is max(beta) + min(beta), as Open-sampling takes it.
    complementary_labels: draw OOD labels from the complementary prior; false draws every class alike.
    class_weights: rare classes weigh more, both in the samples that a closed form solves with (every class the
        same in all) and in what the teacher sees in OOD images (omega); false weighs all images alike.
    ood_weight: lambda, the weight of distillation on OOD rows; 0 turns it off.
    in_compression, in_fine_tuning: whether OOD images take part in ranking and solving, and in training.
    regulariser: eta, the weight of the class-dependent regulariser on OOD rows; 0 turns it off.
    ood_batch: OOD rows in a batch; None is as many as few samples.
    compression_images: OOD images that ranking and solving use at most.
    separate_statistics: pass samples and OOD rows through the student one after the other, so that batch norm
        never mixes them; for OOD images from quite another world than the samples.
    balanced_samples: draw the few samples class-balanced instead of as they are.
    holdout: share of the OOD pool kept for early stopping (at most 500 images); 0 turns it off.
    check_every, patience: steps between two checks, and checks without a better one before it stops.
    """

    alpha: Positive | None = None
    complementary_labels: bool = True
    class_weights: bool = True
    ood_weight: Annotated[float, Ge(0), Lt(float("inf"))] = 1.0
    in_compression: bool = True
    in_fine_tuning: bool = True
    regulariser: Annotated[float, Ge(0), Lt(float("inf"))] = 0.01
    ood_batch: Annotated[int, Ge(1)] | None = None
    compression_images: Annotated[int, Ge(1)] = 1000
    separate_statistics: bool = False
    balanced_samples: bool = False
    holdout: Annotated[float, Ge(0), Le(0.5)] = 0.1
    check_every: Annotated[int, Ge(1)] = 50
    patience: Annotated[int, Ge(1)] = 6


def _option(help: str, default: Any = dataclasses.MISSING) -> Any:  # noqa: A002 - as Typer calls it
    """A dataclass field that is also a command-line option with this help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Goal:
    """How much of the teacher to keep: a share of its MACs, its parameters, or its blocks that can be dropped."""

    share: float
    of: Literal["macs", "params", "blocks"]

    def __str__(self) -> str:
        return f"--keep-{self.of} {self.share}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressSettings:
    """Everything that decides which student `compress` makes; each field is an option of the command line.

    Raises ConfigError, naming the option, for what can be seen to be wrong before anything is loaded.
    """

    teacher: str = _option("FILE.py:FACTORY, timm:NAME or torchvision:NAME.")
    samples: Path = _option("Few labelled images: a folder per class.")
    weights: Weights | None = _option(
        "Teacher weights: .safetensors, or a saved state dict; random: fresh ones, to try things out.", None
    )
    weights_key: str | None = _option(
        "Which weights in the file, where it holds several: names with dots between them, such as state_dict.model.",
        None,
    )
    list: Path | None = _option("Text file of paths that narrows --samples.", None)
    classes: tuple[str, ...] = _option(
        "Classes in the order of the teacher's outputs: a file, one a line, or a,b,c; default: alphabetical.", ()
    )
    ood: Path | None = _option("Any unlabelled images, read recursively.", None)
    keep_macs: Annotated[float, Gt(0), Le(1)] | None = _option(
        "Share of the teacher's MACs to keep; default: 0.5, unless one of the next two is given; 1 for --method none.",
        None,
    )
    keep_params: Annotated[float, Gt(0), Le(1)] | None = _option("Share of the teacher's parameters to keep.", None)
    keep_blocks: Annotated[float, Gt(0), Le(1)] | None = _option(
        "Share of the residual blocks that can go to keep, with a method that drops blocks.", None
    )
    method: str = _option(f"One of {', '.join(METHODS)}; edgeoe methods describes them.", "mir")
    widths: Literal["uniform", "global", "measured"] = _option(
        "Sparsity allocation: the same share of every layer, the channels of least relative norm wherever they are, or "
        "those whose loss adds the least reconstruction error.",
        "uniform",
    )
    include: tuple[str, ...] = _option("Glob over layers whose channels may go; '*' frees the first layer too.", ())
    exclude: tuple[str, ...] = _option("Glob over layers whose channels must stay.", ())
    oe: bool = _option("Rebalance with out-of-distribution images.", True)
    seed: Annotated[int, Ge(0), Lt(2**31)] = _option("Random seed.", 0)
    steps: Annotated[int, Ge(1)] = _option("Training steps at most.", 600)
    batch: Annotated[int, Ge(2)] = _option("Labelled samples per batch.", 64)
    lr: Positive | None = _option(
        "Learning rate at the start; it falls along a cosine. Default: 0.05 for mir and practise, 0.02 for kd.",
        None,
    )
    temperature: Positive = _option("Distillation temperature.", 4.0)
    target: Annotated[tuple[str, ...], MinLen(1)] = _option(
        "Profile of a device that the student is for; may be given several times. Default: host-cpu.", ("host-cpu",)
    )
    recovery_steps: Annotated[int, Ge(0)] = _option("Steps in which practise tries to do without a block.", 10)
    flip: bool = _option("Mirror half of the training images.", True)
    crop_padding: Annotated[int, Ge(0)] | None = _option(
        "Pixels that a random crop may be off by; default: an eighth of the height.", None
    )
    channel_multiple: Annotated[int, Ge(1)] | None = _option(
        "Keep channel counts at multiples of this; default: what --target computes fast.", None
    )
    device: Literal["auto", "cpu", "cuda"] = _option("Where to compute.", "auto")
    devices: Annotated[int, Ge(1)] = _option("Processes on this machine, one a device.", 1)
    nodes: Annotated[int, Ge(1)] = _option("Machines; more than one needs torchrun.", 1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option("Of training arithmetic.", "auto")
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    oe_settings: OESettings = field(default_factory=OESettings)

    def __post_init__(self) -> None:
        from pydantic import TypeAdapter, ValidationError

        for name in ("target", "include", "exclude", "classes"):  # a list, where they come from a file
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.classes:
            object.__setattr__(self, "classes", class_names(self.classes))
        if self.method not in METHODS:
            raise ConfigError(f"--method: unknown method {self.method!r}. {nearest(self.method, METHODS)}")
        if len(given := [f"--keep-{of}" for of, share in self._goals().items() if share is not None]) > 1:
            raise ConfigError(f"{' and '.join(given)}: give one of them.")
        if self.oe and self.ood is None:
            raise ConfigError("--ood is missing: give a folder of any images to rebalance with, or pass --no-oe.")
        if self.weights_key is not None and not isinstance(self.weights, Path):
            raise ConfigError("--weights-key picks from a file of weights: name it with --weights FILE.")
        for option, kind, value in (*_checked(self, "--"), *_checked(self.preprocess), *_checked(self.oe_settings)):
            try:
                TypeAdapter(kind).validate_python(value, strict=True)
            except ValidationError as invalid:
                message = invalid.errors(include_url=False)[0]["msg"]
                hint = f" Did you mean {value:g}%?" if is_share(kind) and 2 <= value <= 100 else ""
                raise ConfigError(f"{option}: {message[0].lower() + message[1:]}. Got {value!r}.{hint}") from None
        self.preprocess.require_scaled()

    def _goals(self) -> dict[Literal["macs", "params", "blocks"], float | None]:
        return {"macs": self.keep_macs, "params": self.keep_params, "blocks": self.keep_blocks}

    @property
    def goal(self) -> Goal:
        """What to keep of the teacher."""
        default = Goal(1.0 if self.method == "none" else 0.5, "macs")
        return next((Goal(share, of) for of, share in self._goals().items() if share is not None), default)

    def to_toml(self) -> dict[str, Any]:
        """These settings as the tables of an edgeoe.toml, paths absolute, so that they mean the same anywhere."""
        tables: dict[str, Any] = {"compress": {}, "preprocess": {}, "oe": {}}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("preprocess", "oe_settings"):
                tables["oe" if f.name == "oe_settings" else f.name] = _without_none(dataclasses.asdict(value))
            elif value is not None:
                tables["compress"][f.name] = _as_toml(value)
        tables["compress"]["target"] = [
            str(Path(name).resolve()) if name.endswith(".toml") else name for name in self.target
        ]
        if ".py:" in self.teacher:
            tables["compress"]["teacher"] = str(Path(self.teacher).resolve())
        return tables


def _as_text(lists: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in lists.items())


def _as_toml(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return [*value] if isinstance(value, tuple) else value


def _checked(record: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name as the user knows it, type, value) of every field of a settings record."""
    table = {PreprocessSettings: "[preprocess] ", OESettings: "[oe] "}.get(type(record), "")
    for name, kind in get_type_hints(type(record), include_extras=True).items():
        yield table + (prefix + name.replace("_", "-") if prefix else name), kind, getattr(record, name)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value is not None
    }


def with_home(text: str) -> str:
    """`text` with ~ or ~user at its beginning replaced by that folder, where there is one."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text


class Config:
    """An edgeoe.toml: one table a command, and [preprocess] and [oe].

    path: the file; None is ./edgeoe.toml where there is one, else no settings at all.
    commands: the options of each table, so that an unknown key is refused by file and line.
    paths: those options that are paths; relative ones are taken from the file's own folder, and ~ is the home folder.
    """

    def __init__(self, path: Path | None, *, commands: Mapping[str, Collection[str]], paths: Collection[str]) -> None:
        default = Path("edgeoe.toml")
        self.path = path if path is not None else default if default.is_file() else None
        self._document = TomlDocument(self.path, error=ConfigError) if self.path else None
        self._paths = paths
        if self._document is not None:
            self._document.refuse_unknown("", self._document.tables, [*commands, "preprocess", "oe"])
            for command, options in commands.items():
                self._document.refuse_unknown(command, self._document.table(command), options)

    @property
    def preprocess(self) -> PreprocessSettings:
        """`[preprocess]`."""
        return self._document.record("preprocess", PreprocessSettings) if self._document else PreprocessSettings()

    @property
    def oe(self) -> OESettings:
        """`[oe]`."""
        return self._document.record("oe", OESettings) if self._document else OESettings()

    def options(self, command: str) -> dict[str, Any]:
        """The options that `[command]` sets; what makes a student, deploy and inspect also take from [compress].

        Not the target of inspect: to that, a target is where latencies are measured, and it may go without.
        """
        own = self._table(command)
        if command not in ("deploy", "inspect"):
            return own
        settings = {f.name for f in dataclasses.fields(CompressSettings) if "help" in f.metadata}
        if command == "inspect":
            settings.remove("target")
        shared = {key: value for key, value in self._table("compress").items() if key in settings}
        return {key: value for key, value in shared.items() if key not in superseded(own, shared)} | own

    def _table(self, command: str) -> dict[str, Any]:
        if self._document is None or self.path is None:
            return {}
        return {key: self._anchored(key, value) for key, value in self._document.table(command).items()}

    def _anchored(self, key: str, value: Any) -> Any:
        """`value` of option `key`, a relative path in it taken from this file's folder."""
        if key == "classes" and self.path is not None and not isinstance(value, list):  # a file, names, or a number
            is_file = isinstance(value, str) and names_a_file(value, folder=self.path.parent)
            return [str(self.path.parent / value) if is_file else str(value)]
        if key == "classes":
            return value
        if isinstance(value, list):
            return [self._anchored(key, item) for item in value]
        if key == "weights" and value == "random":
            return value
        is_path = key in self._paths or (key == "teacher" and ".py:" in str(value)) or str(value).endswith(".toml")
        if not is_path or not isinstance(value, str) or self.path is None:
            return value
        anchored = str(self.path.parent / with_home(value))
        return f"./{anchored}" if anchored == "random" else anchored  # which alone would be no file


_GOALS = frozenset({"keep_macs", "keep_params", "keep_blocks"})  # of which a student has one


def superseded(given: Collection[str], further: Collection[str]) -> set[str]:
    """The options that make way for those `given` nearer to the user: another goal, the weights of another teacher.

    further: the options that are set further from the user; without a teacher among them, weights there are for any.
    """
    gone = set(_GOALS) if _GOALS & set(given) else set()
    if "teacher" in given and "teacher" in further:
        gone |= {"weights", "weights_key"}
    return gone - set(given)
