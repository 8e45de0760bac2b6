"""fp32 graph -> fp16 and int8 graphs, each judged on images that its ranges were not taken from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.errors import ExportError, RunError, quoted
from edgeoe.files import file_sha256
from edgeoe.graph.bias_correction import correct_biases, mean_errors
from edgeoe.graph.calibration import Observed, observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.export import OUTPUT
from edgeoe.graph.fp16 import to_fp16
from edgeoe.graph.quantize import Recipe, quantisable_layers, quantise, watched_tensors
from edgeoe.machine.environment import int8_saturates
from edgeoe.progress import Progress, silent
from edgeoe.records.graphs import CalibrationMethod, GraphRecord, LayerSensitivity, RefusedGraph
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import DeviceFacts, Precision, Target

__all__ = [
    "Int8Settings",
    "Int8Writer",
    "graph_file",
    "graph_for",
    "recipe_for",
    "retry_int8",
    "write_fp16",
]

FP16_TOLERANCE = 0.02  # of max |difference| / max |logit|
MIN_AGREEMENT = 0.9  # of an int8 graph with the fp32 graph: less is a broken calibration
_PROBED = 64  # images that a single layer's sensitivity is measured on


@dataclass(frozen=True, slots=True)
class Int8Settings:
    """How int8 graphs are made.

    max_drop: share of images that may change class, None for no limit; the most sensitive layers stay fp32 until it is
    met. sensitivity: measure the sensitivity of every layer, needed or not.
    """

    calibration: CalibrationMethod = "percentile"
    bias_correction: bool = True
    max_drop: float | None = None
    sensitivity: bool = False


def recipe_for(target: Target, *, here: bool = True) -> Recipe:
    """The int8 recipe that `target` computes fast and exactly.

    A profile that says nothing of its device means the machine that the graph runs on: with `here` this one, whose
    processor decides; else an unknown one, for which nothing is assumed.
    """
    recipe = cast("Recipe", traits_of(target.backend).int8_recipe(target))
    exact = target.device.int8_dot
    if here and target.device == DeviceFacts():
        exact = not int8_saturates()
    return "int8-cpu-7bit" if recipe == "int8-cpu" and target.on_cpu and exact is False else recipe


def graph_file(target: Target, *, here: bool = True) -> layout.File:
    """The file in a run that holds the graph for a target. here: as for `recipe_for`."""
    variant = recipe_for(target, here=here) if target.precision == "int8" else target.precision
    return layout.graph_file(variant, precision=target.precision)


def graph_for(run: Run, target: Target, *, here: bool = True) -> Path:
    """The graph of `run` for `target`. here: as for `recipe_for`.

    Raises RunError if it was not exported, with the reason if `export` refused it.
    """
    file = graph_file(target, here=here)
    for refused in run.read(replace(layout.EXPORT, made_by=file.made_by)).refused:
        if file == layout.graph_file(refused.precision, precision="int8"):
            reason = f"{refused.reason} {retry_int8(run)}"
            raise RunError(f"target {target.name} needs {run.path / file.name}, which export refused: {reason}")
    return run.file(file)


def retry_int8(run: Run) -> str:
    """What to do about an int8 graph that was refused, for messages."""
    return (
        "Try another --calibration, or keep the most sensitive layers fp32: "
        f"edgeoe export {quoted(run.path)} --precision int8 --max-drop 0.01"
    )


def write_fp16(run: Run) -> GraphRecord:
    """Write student-fp16.onnx. Raises ExportError if it strays from the fp32 graph by more than FP16_TOLERANCE."""
    images = _Images.of(run)
    graph = to_fp16(_fp32(run))
    expected, got = images.expected, _logits(graph, images.others)
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= FP16_TOLERANCE:
        raise ExportError(
            f"in fp16 this student strays from itself by {error:.2g} of its greatest logit over {len(expected)} "
            f"images, allowed {FP16_TOLERANCE:g}: some of its numbers are beyond half precision. Export fp32 or int8."
        )
    return _write(run, graph, "fp16", "fp16", got, images)


class Int8Writer:
    """Writes int8 graphs of a run's fp32 graph, all with ranges from one look at the run's calibration images."""

    def __init__(self, run: Run, settings: Int8Settings, *, progress: Progress = silent) -> None:
        self._run, self._settings, self._progress = run, settings, progress
        self._images, self._graph = _Images.of(run), _fp32(run)
        weights = np.ones(len(self._images.calibration))
        tensors = watched_tensors(self._graph)
        self._seen = observe(self._graph, tensors, self._images.calibration, weights, progress=progress)

    def write(self, recipe: Recipe) -> GraphRecord | RefusedGraph:
        """Write student-<recipe>.onnx, unless it agrees with the fp32 graph on fewer than MIN_AGREEMENT of the images
        that it was not calibrated with."""
        images, settings = self._images, self._settings
        maker = _Maker(self._graph, images, self._seen, recipe, settings, self._progress)
        kept: tuple[str, ...] = ()
        layers: tuple[LayerSensitivity, ...] = ()
        logits = _logits(graph := maker.make(kept), images.others)
        allowed = settings.max_drop
        too_far = allowed is not None and 1 - images.agreement(logits) > allowed
        if settings.sensitivity or too_far:
            layers = maker.sensitivities()
        if allowed is not None and too_far:
            kept = maker.fewest_kept([layer.layer for layer in layers], allowed)
            logits = _logits(graph := maker.make(kept), images.others)
        agreement = images.agreement(logits)
        if agreement < MIN_AGREEMENT:
            return RefusedGraph(
                precision=recipe,
                agreement=agreement,
                images=len(logits),
                reason=f"in {recipe} this student decides as in fp32 on {100 * agreement:.1f} % of {len(logits)} "
                f"images, and {100 * MIN_AGREEMENT:g} % are required.",
            )
        return _write(self._run, graph, recipe, "int8", logits, images, settings=settings, kept=kept, layers=layers)


def _fp32(run: Run) -> onnx.ModelProto:
    return onnx.load(run.file(layout.graph_file("fp32", precision="fp32")))


def _logits(graph: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = [run_model(graph, images[at : at + 64], [OUTPUT])[OUTPUT] for at in range(0, len(images), 64)]
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Images:
    """Images to calibrate with, others to judge with, and what the fp32 graph says of these."""

    calibration: NDArray[np.float32]
    others: NDArray[np.float32]
    expected: NDArray[np.float32]

    @classmethod
    def of(cls, run: Run) -> _Images:
        preprocess = run.read(layout.FACTS).preprocess
        pixels = run.read_tensors(layout.CALIBRATION)
        calibration, others = (preprocess.normalise(pixels[key]) for key in ("pixels", "others"))
        return cls(calibration, others, _logits(_fp32(run), others))

    def agreement(self, logits: NDArray[np.float32]) -> float:
        """Share of the other images on which the class is the fp32 graph's."""
        expected = self.expected[: len(logits)]
        return float((logits.argmax(1) == expected.argmax(1)).mean())


@dataclass
class _Maker:
    """Makes int8 graphs that differ in which layers stay fp32."""

    graph: onnx.ModelProto
    images: _Images
    seen: Mapping[str, Observed]
    recipe: Recipe
    settings: Int8Settings
    progress: Progress
    layers: list[str] = field(init=False)
    errors: Mapping[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = [*quantisable_layers(self.graph)]
        self.errors = (
            mean_errors(self.graph, self._quantised(self.graph), self.seen) if self.settings.bias_correction else {}
        )

    def make(self, keep: Collection[str]) -> onnx.ModelProto:
        """The int8 graph in which the layers `keep` stay fp32."""
        errors = {layer: error for layer, error in self.errors.items() if layer not in keep}
        return self._quantised(correct_biases(self.graph, errors), keep)

    def _quantised(self, graph: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
        return quantise(graph, self.recipe, self.seen, method=self.settings.calibration, keep=keep)

    def sensitivities(self) -> tuple[LayerSensitivity, ...]:
        """Each layer's sensitivity, when it alone is int8; the most sensitive first."""
        others = self.images.others[:_PROBED]
        expected = self.images.expected[:_PROBED]
        measured = []
        with self.progress("Measuring sensitivity", len(self.layers)) as advance:
            for layer in self.layers:
                logits = _logits(self.make({*self.layers} - {layer}), others)
                error = float(np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean()))
                measured.append(LayerSensitivity(layer, error, 1 - self.images.agreement(logits)))
                advance()
        return tuple(sorted(measured, key=lambda layer: -layer.error))

    def fewest_kept(self, ordered: Sequence[str], allowed: float) -> tuple[str, ...]:
        """The fewest of the layers, the most sensitive first, that must stay fp32 for the drop to be `allowed`."""
        low, high = 0, 1  # `low` are too few
        while high < len(ordered) and not self._suffice(ordered[:high], allowed):
            low, high = high, min(2 * high, len(ordered))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._suffice(ordered[:middle], allowed) else (middle, high)
        return tuple(ordered[:high])

    def _suffice(self, keep: Sequence[str], allowed: float) -> bool:
        return 1 - self.images.agreement(_logits(self.make(keep), self.images.others)) <= allowed


def _write(
    run: Run,
    graph: onnx.ModelProto,
    variant: str,
    precision: Precision,
    logits: NDArray[np.float32],
    images: _Images,
    *,
    settings: Int8Settings | None = None,
    kept: tuple[str, ...] = (),
    layers: tuple[LayerSensitivity, ...] = (),
) -> GraphRecord:
    path = run.write(layout.graph_file(variant, precision=precision), lambda file: onnx.save(graph, file))
    return GraphRecord(
        path=path.name,
        sha256=file_sha256(path),
        precision=variant,
        size_bytes=path.stat().st_size,
        max_rel_error=float(np.abs(logits - images.expected).max() / np.abs(images.expected).max()),
        agreement=images.agreement(logits),
        images=len(logits),
        calibration=settings.calibration if settings else None,
        calibration_images=len(images.calibration) if settings else 0,
        bias_corrected=settings.bias_correction if settings else False,
        kept_fp32=kept,
        layers=layers,
    )
