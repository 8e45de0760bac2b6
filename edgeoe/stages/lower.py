"""fp32 graph -> fp16 and int8 graphs, each judged on images that its ranges were not taken from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.errors import ExportError
from edgeoe.graph.calibration import Observed, observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.export import OUTPUT
from edgeoe.graph.half import to_fp16
from edgeoe.graph.quantize import Recipe, correct_biases, quantisable_layers, quantise, watched_tensors
from edgeoe.progress import Progress, silent
from edgeoe.records import CalibrationMethod, GraphRecord, LayerCost, Target
from edgeoe.run import Run, file_sha256
from edgeoe.stages.facts import run_facts

__all__ = ["Int8Settings", "graph_file", "graph_made_by", "recipe_for", "write_fp16", "write_int8"]

FP16_TOLERANCE = 0.02  # of max |difference| / max |logit|
MIN_AGREEMENT = 0.9  # of an int8 graph with the fp32 graph: fewer is a broken calibration
_PROBED = 64  # images that a single layer's cost is measured on


@dataclass(frozen=True, slots=True)
class Int8Settings:
    """How int8 graphs are made. max_drop: share of images that may change class, None for no limit; the layers that
    cost most stay fp32 until it is met. sensitivity: measure every layer's cost, needed or not."""

    calibration: CalibrationMethod = "percentile"
    bias_correction: bool = True
    max_drop: float | None = None
    sensitivity: bool = False


def recipe_for(target: Target) -> Recipe:
    """The int8 recipe that a target has fast and exact kernels for."""
    if target.backend == "tensorrt" or target.runtime.provider == "tensorrt":
        return "int8-trt"
    return "int8-cpu-7bit" if target.device.int8_dot is False else "int8-cpu"


def graph_made_by(run: Run, target: Target) -> str:
    """The command that writes graph_file(target), for messages."""
    return f"export {run.path}" + ("" if target.precision == "fp32" else f" --precision {target.precision}")


def graph_file(target: Target) -> str:
    """The file in a run that holds the graph for a target."""
    if target.precision == "int8":
        return f"student-{recipe_for(target)}.onnx"
    return "student.onnx" if target.precision == "fp32" else "student-fp16.onnx"


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
    return _write(run, graph, "fp16", got, images)


def write_int8(
    run: Run, recipes: Iterable[Recipe], settings: Int8Settings, *, progress: Progress = silent
) -> list[GraphRecord]:
    """Write student-<recipe>.onnx for each, all with ranges from one look at the run's calibration images.

    Raises ExportError if one agrees with the fp32 graph on fewer than MIN_AGREEMENT of the other images.
    """
    images, graph = _Images.of(run), _fp32(run)
    weights = np.ones(len(images.calibration))
    seen = observe(graph, watched_tensors(graph), images.calibration, weights, progress=progress)
    return [_write_int8(run, _Maker(graph, images, seen, recipe, settings, progress)) for recipe in recipes]


def _write_int8(run: Run, maker: _Maker) -> GraphRecord:
    images, settings, recipe = maker.images, maker.settings, maker.recipe
    kept: tuple[str, ...] = ()
    costs: tuple[LayerCost, ...] = ()
    logits = _logits(made := maker.make(kept), images.others)
    allowed = settings.max_drop
    too_far = allowed is not None and 1 - images.agreement(logits) > allowed
    if settings.sensitivity or too_far:
        costs = maker.costs()
    if allowed is not None and too_far:
        kept = maker.fewest_kept([cost.layer for cost in costs], allowed)
        logits = _logits(made := maker.make(kept), images.others)
    if images.agreement(logits) < MIN_AGREEMENT:
        raise ExportError(
            f"in {recipe} this student agrees with itself on only {100 * images.agreement(logits):.1f} % of "
            f"{len(logits)} images. Try another --calibration, or --max-drop 0.01 to keep the worst layers fp32."
        )
    return _write(run, made, recipe, logits, images, settings=settings, kept=kept, costs=costs)


def _fp32(run: Run) -> onnx.ModelProto:
    return onnx.load(run.file("student.onnx", made_by=f"export {run.path}"))


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
        preprocess = run_facts(run).preprocess
        pixels = run.read_tensors("calibration.safetensors", made_by="compress")
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

    def __post_init__(self) -> None:
        self.layers = quantisable_layers(self.graph)

    def make(self, keep: Sequence[str]) -> onnx.ModelProto:
        rounded = [layer for layer in self.layers if layer not in set(keep)]
        graph = self.graph
        if self.settings.bias_correction:
            graph = correct_biases(graph, self.seen, layers=rounded, recipe=self.recipe)
        return quantise(graph, self.recipe, self.seen, method=self.settings.calibration, keep=keep)

    def costs(self) -> tuple[LayerCost, ...]:
        """What each layer costs when it alone is int8, dearest first."""
        others = self.images.others[:_PROBED]
        expected = self.images.expected[:_PROBED]
        found = []
        with self.progress("Weighing layers", len(self.layers)) as advance:
            for layer in self.layers:
                logits = _logits(self.make([name for name in self.layers if name != layer]), others)
                error = float(np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean()))
                found.append(LayerCost(layer, error, 1 - self.images.agreement(logits)))
                advance()
        return tuple(sorted(found, key=lambda cost: -cost.error))

    def fewest_kept(self, dearest: Sequence[str], allowed: float) -> tuple[str, ...]:
        """The fewest of the dearest layers that must stay fp32 for the drop to be `allowed`."""
        low, high = 0, 1  # `low` are too few
        while high < len(dearest) and not self._suffice(dearest[:high], allowed):
            low, high = high, min(2 * high, len(dearest))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._suffice(dearest[:middle], allowed) else (middle, high)
        return tuple(dearest[:high])

    def _suffice(self, keep: Sequence[str], allowed: float) -> bool:
        return 1 - self.images.agreement(_logits(self.make(keep), self.images.others)) <= allowed


def _write(
    run: Run,
    graph: onnx.ModelProto,
    precision: str,
    logits: NDArray[np.float32],
    images: _Images,
    *,
    settings: Int8Settings | None = None,
    kept: tuple[str, ...] = (),
    costs: tuple[LayerCost, ...] = (),
) -> GraphRecord:
    path = run.write(f"student-{precision}.onnx", lambda file: onnx.save(graph, file))
    return GraphRecord(
        path=path.name,
        sha256=file_sha256(path),
        precision=precision,
        size_bytes=path.stat().st_size,
        max_rel_error=float(np.abs(logits - images.expected).max() / np.abs(images.expected).max()),
        agreement=images.agreement(logits),
        images=len(logits),
        calibration=settings.calibration if settings else None,
        calibration_images=len(images.calibration) if settings else 0,
        bias_corrected=settings.bias_correction if settings else False,
        kept_fp32=kept,
        layers=costs,
    )
