"""fp32 graph -> int8 graphs, whose most sensitive layers may stay fp32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.graph.bias_correction import correct_biases, mean_errors
from edgeoe.graph.calibration import Observed, observe
from edgeoe.graph.precision import Draft, Source, logits_of
from edgeoe.graph.quantize import quantisable_layers, quantise, watched_tensors
from edgeoe.graph.recipes import Recipe
from edgeoe.records.graphs import LayerSensitivity

__all__ = ["int8_writer"]

_PROBED = 64  # images that a single layer's sensitivity is measured on


def int8_writer(source: Source) -> Callable[[str], Draft]:
    """Recipe -> int8 graph; all take their ranges from one look at the calibration images."""
    weights = np.ones(len(source.calibration))
    tensors = watched_tensors(source.graph)
    observed = observe(source.graph, tensors, source.calibration, weights, progress=source.progress)
    return lambda recipe: _draft(_Maker(source, observed, cast("Recipe", recipe)))


def _draft(maker: _Maker) -> Draft:
    source, settings = maker.source, maker.source.settings
    kept: tuple[str, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()
    graph, allowed = maker.make(kept), settings.max_drop
    too_far = allowed is not None and 1 - source.agreement(logits_of(graph, source.judging)) > allowed
    if settings.sensitivity or too_far:
        layers = maker.sensitivities()
    if allowed is not None and too_far:
        kept = maker.fewest_kept([layer.layer for layer in layers], allowed)
        graph = maker.make(kept)
    return Draft(
        graph=graph,
        calibration=settings.calibration,
        calibration_images=len(source.calibration),
        bias_corrected=settings.bias_correction,
        kept_fp32=kept,
        layers=layers,
    )


@dataclass
class _Maker:
    """Makes int8 graphs that differ in which layers stay fp32."""

    source: Source
    observed: Mapping[str, Observed]
    recipe: Recipe
    layers: list[str] = field(init=False)
    errors: Mapping[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.source.graph
        self.layers = [*quantisable_layers(graph)]
        corrected = self.source.settings.bias_correction
        self.errors = mean_errors(graph, self._quantised(graph), self.observed) if corrected else {}

    def make(self, keep: Collection[str]) -> onnx.ModelProto:
        """The int8 graph in which the layers `keep` stay fp32."""
        errors = {layer: error for layer, error in self.errors.items() if layer not in keep}
        return self._quantised(correct_biases(self.source.graph, errors), keep)

    def _quantised(self, graph: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
        return quantise(graph, self.recipe, self.observed, method=self.source.settings.calibration, keep=keep)

    def sensitivities(self) -> tuple[LayerSensitivity, ...]:
        """Each layer's sensitivity, when it alone is int8; the most sensitive first."""
        judging = self.source.judging[:_PROBED]
        expected = self.source.expected[:_PROBED]
        measured = []
        with self.source.progress("Measuring sensitivity", len(self.layers)) as advance:
            for layer in self.layers:
                logits = logits_of(self.make({*self.layers} - {layer}), judging)
                error = float(np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean()))
                measured.append(LayerSensitivity(layer, error, 1 - self.source.agreement(logits)))
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
        return 1 - self.source.agreement(logits_of(self.make(keep), self.source.judging)) <= allowed
