"""fp32 graph -> int8 graphs, in which the most sensitive layers may stay fp32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.graph.bias_correction import correct_biases, mean_errors
from edgeoe.graph.calibration import TensorStatistics, observe
from edgeoe.graph.precision import Draft, Source, logits_of
from edgeoe.graph.quantize import quantisable_layers, quantise, watched_tensors
from edgeoe.graph.recipes import Recipe
from edgeoe.records.graphs import LayerSensitivity

__all__ = ["int8_writer"]

_SENSITIVITY_IMAGES = 64  # images on which the sensitivity of a layer is measured


def int8_writer(source: Source) -> Callable[[str], Draft]:
    """A function from recipe to int8 graph; all recipes share one pass over the calibration images."""
    weights = np.ones(len(source.calibration))
    tensors = watched_tensors(source.graph)
    statistics = observe(source.graph, tensors, source.calibration, weights, progress=source.progress)
    return lambda recipe: _draft(_Maker(source, statistics, cast("Recipe", recipe)))


def _draft(maker: _Maker) -> Draft:
    source, settings = maker.source, maker.source.settings
    keep = maker.kept
    layers: tuple[LayerSensitivity, ...] = ()
    graph, max_drop = maker.make(keep), settings.max_drop
    too_far = max_drop is not None and 1 - source.agreement(logits_of(graph, source.judging)) > max_drop
    if settings.sensitivity or too_far:
        layers = maker.sensitivities()
    if max_drop is not None and too_far:
        keep = maker.fewest_in_fp32([layer.layer for layer in layers], max_drop)
        graph = maker.make(keep)
    return Draft(
        graph=graph,
        calibration=settings.calibration,
        calibration_images=len(source.calibration),
        bias_corrected=settings.bias_correction,
        kept_fp32=keep,
        layers=layers,
    )


@dataclass
class _Maker:
    """Makes int8 graphs of one recipe that differ in the layers that stay fp32.

    layers: all that can be int8.
    kept: those of them that stay fp32 in any case.
    """

    source: Source
    statistics: Mapping[str, TensorStatistics]
    recipe: Recipe
    layers: list[str] = field(init=False)
    kept: tuple[str, ...] = field(init=False)
    errors: Mapping[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.source.graph
        self.layers = [*quantisable_layers(graph)]
        kept = self.source.kept_fp32.get(self.recipe, ())
        self.kept = tuple(layer for layer in kept if layer in self.layers)
        correct = self.source.settings.bias_correction
        self.errors = mean_errors(graph, self._quantised(graph), self.statistics) if correct else {}

    def make(self, keep: Collection[str]) -> onnx.ModelProto:
        """The int8 graph in which the layers `keep` stay fp32."""
        errors = {layer: error for layer, error in self.errors.items() if layer not in keep}
        return self._quantised(correct_biases(self.source.graph, errors), keep)

    def _quantised(self, graph: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
        return quantise(graph, self.recipe, self.statistics, method=self.source.settings.calibration, keep=keep)

    def sensitivities(self) -> tuple[LayerSensitivity, ...]:
        """Sensitivity of each layer when only that layer is int8, the most sensitive first."""
        judging = self.source.judging[:_SENSITIVITY_IMAGES]
        expected = self.source.expected[:_SENSITIVITY_IMAGES]
        sensitivities = []
        with self.source.progress("Measuring sensitivity", len(self.layers)) as advance:
            for layer in self.layers:
                logits = logits_of(self.make({*self.layers} - {layer}), judging)
                error = float(np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean()))
                sensitivities.append(LayerSensitivity(layer, error, 1 - self.source.agreement(logits)))
                advance()
        return tuple(sorted(sensitivities, key=lambda layer: -layer.error))

    def fewest_in_fp32(self, layers: Sequence[str], max_drop: float) -> tuple[str, ...]:
        """The fewest of `layers`, the most sensitive first, that must stay fp32 for a drop of at most `max_drop`.

        They follow those that stay fp32 anyway.
        """
        layers = [layer for layer in layers if layer not in self.kept]
        too_few, enough = 0, 1
        while enough < len(layers) and not self._is_enough(layers[:enough], max_drop):
            too_few, enough = enough, min(2 * enough, len(layers))
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self._is_enough(layers[:middle], max_drop) else (middle, enough)
        return (*self.kept, *layers[:enough])

    def _is_enough(self, keep: Sequence[str], max_drop: float) -> bool:
        graph = self.make([*self.kept, *keep])
        return 1 - self.source.agreement(logits_of(graph, self.source.judging)) <= max_drop
