"""What a user can set of `compress`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from edgeoe.bounds import Fraction, Positive
from edgeoe.class_names import class_names
from edgeoe.conversions import path_from_text, record_from, tuple_from_list, with_home
from edgeoe.errors import ConfigError
from edgeoe.method import load_method, method_options, option, option_records
from edgeoe.registry import METHODS, nearest
from edgeoe.shares import is_share

__all__ = [
    "CompressSettings",
    "Goal",
    "Interpolation",
    "OESettings",
    "PreprocessSettings",
    "Weights",
    "setting_names",
    "shows_settings",
    "weights_from_text",
]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_GREATEST = 1.5  # mean or standard deviation: those of images scaled to 0..1 lie well below
Weights = Path | Literal["random"]  # a file, or fresh ones, to try things out
Options = TypeVar("Options")
Function = TypeVar("Function", bound=Callable[..., Any])


def weights_from_text(text: str) -> Weights:
    """Weights as a user names them: `random` is no file; a file that is really called so is ./random."""
    return "random" if text == "random" else Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSettings:
    """`[preprocess]`: what differs from the teacher's own preprocessing; None keeps the teacher's.

    size: (height, width) in pixels.
    mean, std: per channel, of images scaled to 0..1; one value for a greyscale network, three for RGB.
    crop_fraction: the part of the resized image that the central crop keeps.
    """

    size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    mean: tuple[Annotated[float, Gt(float("-inf")), Lt(float("inf"))], ...] | None = None
    std: tuple[Positive, ...] | None = None
    interpolation: Interpolation | None = None
    crop_fraction: Annotated[float, Gt(0), Le(1)] | None = None

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple_from_list(getattr(self, name)))

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
    ood_batch: OOD images per batch; None is as many as labelled samples.
    compression_images: OOD images that ranking and solving use at most.
    separate_statistics: pass samples and OOD rows through the student one after the other, so that batch norm
        never mixes them; for OOD images from quite another world than the samples.
    balanced_samples: draw the labelled samples class-balanced instead of as they are.
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

    options: those of the method, as records (`(DistillationOptions(lr=0.01),)`) or by name (`{"lr": 0.01}`); they are
        kept as records, without those that hold nothing but defaults.
    Raises ConfigError, naming the option, for what can be seen to be wrong before anything is loaded.
    """

    teacher: str = option("FILE.py:FACTORY, timm:NAME or torchvision:NAME.")
    samples: Path = option("Few labelled images: a folder per class.")
    weights: Weights | None = option(
        "Teacher weights: .safetensors, or a saved state dict; random: fresh ones, to try things out.", None
    )
    weights_key: str | None = option(
        "Which weights in the file, where it holds several: names with dots between them, such as state_dict.model.",
        None,
    )
    list: Path | None = option("Text file of paths that narrows --samples.", None)
    classes: tuple[str, ...] = option(
        "Classes in the order of the teacher's outputs: a file, one a line, or a,b,c; default: alphabetical.", ()
    )
    ood: Path | None = option("Any unlabelled images, read recursively.", None)
    follow_links: bool = option("Follow links that lead out of --samples, --ood or --test.", False)
    keep_macs: Annotated[float, Gt(0), Le(1)] | None = option(
        "Share of the teacher's MACs to keep. Default, without another share or a budget: 0.5; 1 for --method none.",
        None,
    )
    keep_params: Annotated[float, Gt(0), Le(1)] | None = option("Share of the teacher's parameters to keep.", None)
    keep_blocks: Annotated[float, Gt(0), Le(1)] | None = option(
        "Share of the residual blocks that can be dropped to keep, with a method that drops blocks.", None
    )
    latency_ms: Positive | None = option(
        "Budget instead of a share: median latency on --target in milliseconds, in its precision. What loses least is "
        "pruned, channels and blocks. Default, without a share: the [budget] of --target.",
        None,
    )
    speedup: Annotated[float, Gt(1), Lt(float("inf"))] | None = option(
        "The same budget, as a multiple of the speed of the fp32 teacher on --target.", None
    )
    max_drop: Fraction | None = option(
        "Share of images whose class int8 may change: export keeps the most sensitive layers fp32 to meet it, and a "
        "budget pays for them.",
        None,
    )
    method: str = option(f"One of {', '.join(METHODS.built_in)}; edgeoe methods describes them.", "mir")
    include: tuple[str, ...] = option(
        "Glob over layers whose channels may be pruned; '*' frees the first layer too.", ()
    )
    exclude: tuple[str, ...] = option("Glob over layers whose channels are not pruned.", ())
    oe: bool = option("Rebalance with out-of-distribution images.", True)
    seed: Annotated[int, Ge(0), Lt(2**31)] = option("Random seed.", 0)
    steps: Annotated[int, Ge(1)] = option("Training steps at most.", 600)
    batch: Annotated[int, Ge(2)] = option("Labelled samples per batch.", 64)
    target: Annotated[tuple[str, ...], MinLen(1)] = option(
        "Profile of a device that the student is for; may be given several times. Default: host-cpu.", ("host-cpu",)
    )
    flip: bool = option("Mirror half of the training images.", True)
    crop_padding: Annotated[int, Ge(0)] | None = option(
        "Pixels that a random crop may be off by; default: an eighth of the height.", None
    )
    channel_multiple: Annotated[int, Ge(1)] | None = option(
        "Keep channel counts at multiples of this; default: what --target computes fast.", None
    )
    accelerator: Literal["auto", "cpu", "cuda"] = option("Where to compute.", "auto")
    processes: Annotated[int, Ge(1)] = option("Processes on this machine that share each batch, one a GPU.", 1)
    nodes: Annotated[int, Ge(1)] = option("Machines; more than one needs torchrun.", 1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("Of training arithmetic.", "auto")
    options: Mapping[str, Any] | tuple[object, ...] = ()
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    oe_settings: OESettings = field(default_factory=OESettings)

    def __post_init__(self) -> None:
        from pydantic import TypeAdapter, ValidationError

        for name, strict in _STRICT.items():  # given in Python, perhaps, by whoever means no less
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, strict(given))
        for name in ("target", "include", "exclude", "classes"):  # a list, where they come from a file
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.classes:
            object.__setattr__(self, "classes", class_names(self.classes))
        if self.method not in METHODS:
            raise ConfigError(f"--method: unknown method {self.method!r}. {nearest(self.method, METHODS)}")
        object.__setattr__(self, "options", option_records(self.method, self.options))
        if len(given := [name for name, value in self._wishes().items() if value is not None]) > 1:
            raise ConfigError(f"{' and '.join(given)}: give one of them.")
        if given and given[0] in ("--latency-ms", "--speedup") and not load_method(self.method).to_budget:
            way_out = f"leave {given[0]} out, or choose another --method."
            raise ConfigError(f"--method {self.method} prunes nothing: {way_out}")
        if self.oe and self.ood is None:
            raise ConfigError("--ood is missing: give a folder of any images to rebalance with, or pass --no-oe.")
        if self.weights_key is not None and not isinstance(self.weights, Path):
            raise ConfigError("--weights-key picks from a file of weights: name it with --weights FILE.")
        records = (*self.options, self.preprocess, self.oe_settings)
        for name, kind, value in (*_checked(self), *(row for record in records for row in _checked(record))):
            try:
                TypeAdapter(kind).validate_python(value, strict=True)
            except ValidationError as invalid:
                message = invalid.errors(include_url=False)[0]["msg"]
                hint = f" Did you mean {value:g}%?" if is_share(kind) and 2 <= value <= 100 else ""
                raise ConfigError(f"{name}: {message[0].lower() + message[1:]}. Got {value!r}.{hint}") from None
        self.preprocess.require_scaled()

    def _goals(self) -> dict[Literal["macs", "params", "blocks"], float | None]:
        return {"macs": self.keep_macs, "params": self.keep_params, "blocks": self.keep_blocks}

    def _wishes(self) -> dict[str, float | None]:
        """Every option that says how small the student is to be, of which one may be given."""
        shares = {f"--keep-{of}": share for of, share in self._goals().items()}
        return {**shares, "--latency-ms": self.latency_ms, "--speedup": self.speedup}

    @property
    def keeps_share(self) -> bool:
        """Whether a share of the teacher to keep is given."""
        return any(share is not None for share in self._goals().values())

    @property
    def goal(self) -> Goal:
        """What to keep of the teacher, where no budget decides."""
        default = Goal(load_method(self.method).keeps, "macs")
        return next((Goal(share, of) for of, share in self._goals().items() if share is not None), default)

    def options_for(self, kind: type[Options]) -> Options:
        """The options of the class `kind`; its defaults where the user has given none."""
        return next((record for record in self.options if isinstance(record, kind)), kind())

    def to_toml(self) -> dict[str, Any]:
        """These settings as the tables of an edgeoe.toml, paths absolute, so that they mean the same anywhere.

        Every option of the method is there, whether it was given or not.
        """
        compress = {name: getattr(self, name) for name in setting_names()}
        for kind in load_method(self.method).options:
            compress |= {one.name: getattr(self.options_for(kind), one.name) for one in dataclasses.fields(kind)}
        compress["target"] = [str(Path(name).resolve()) if name.endswith(".toml") else name for name in self.target]
        if ".py:" in self.teacher:
            compress["teacher"] = str(Path(self.teacher).resolve())
        tables = {
            "compress": compress,
            "preprocess": dataclasses.asdict(self.preprocess),
            "oe": dataclasses.asdict(self.oe_settings),
        }
        return {name: _as_toml(table) for name, table in tables.items()}

    @classmethod
    def from_toml(cls, tables: Mapping[str, Any]) -> CompressSettings:
        """The settings that `to_toml` has written. Raises ConfigError for tables that are none."""
        try:
            compress = dict(tables["compress"])
            options = {name: compress.pop(name) for name in [*compress] if name not in setting_names()}
            preprocess, oe = PreprocessSettings(**tables["preprocess"]), OESettings(**tables["oe"])
            return cls(**compress, options=options, preprocess=preprocess, oe_settings=oe)
        except (KeyError, TypeError, ValueError) as reason:
            raise ConfigError(f"not the settings of a run of this edgeoe: {reason}.") from None

    def resolved(self) -> CompressSettings:
        """The same with absolute paths, as a run keeps them."""
        return CompressSettings.from_toml(self.to_toml())


def setting_names() -> tuple[str, ...]:
    """The settings that are options of the command line, those of methods left out."""
    return tuple(f.name for f in dataclasses.fields(CompressSettings) if "help" in f.metadata)


def shows_settings(function: Function) -> Function:
    """`function(settings, *, ..., **given)`, whose help and completion show every setting, and options of methods."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    names = {one.name for one in own}
    fields = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.default is dataclasses.MISSING else field.default,
            annotation=field.type,
        )
        for field in dataclasses.fields(CompressSettings)
        if field.name not in names
    ]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=one.kind)
        for name, one in method_options(METHODS.built_in).items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *fields, *options])  # type: ignore[attr-defined]
    return function


_STRICT: Mapping[str, Callable[[Any], Any]] = {  # what a field holds, of what it may be given as
    "samples": path_from_text,
    "list": path_from_text,
    "ood": path_from_text,
    "weights": lambda given: weights_from_text(with_home(given)) if isinstance(given, str) else given,
    "preprocess": lambda given: record_from(PreprocessSettings, given),
    "oe_settings": lambda given: record_from(OESettings, given),
}


def _as_text(lists: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in lists.items())


def _as_toml(table: Mapping[str, Any]) -> dict[str, Any]:
    """`table` as TOML can hold it: paths absolute, tuples as arrays, and without what is None."""
    plain = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in table.items()}
    return {name: [*value] if isinstance(value, tuple) else value for name, value in plain.items() if value is not None}


def _checked(record: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name as the user knows it, type, value) of every field of a settings record."""
    table = {PreprocessSettings: "[preprocess] ", OESettings: "[oe] "}.get(type(record))
    for name, kind in get_type_hints(type(record), include_extras=True).items():
        yield table + name if table else "--" + name.replace("_", "-"), kind, getattr(record, name)
