"""JSON reports, as `--json` writes them: plain values under stable keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeoe.codec import to_json
from edgeoe.records.comparison import Comparison
from edgeoe.records.compression import CompressRecord
from edgeoe.records.measurement import Measurement, Speed, Validation
from edgeoe.report.text_file import write_json
from edgeoe.report.wording import has_intervals, shown_speed

if TYPE_CHECKING:
    from edgeoe.run.facts import RunFacts

__all__ = ["Json", "compress_json", "validation_json"]


class Json:
    """Report format "json"."""

    help = "Write the result record here."
    takes_file = True

    def write_validation(self, validation: Validation, path: Path | None) -> None:
        write_json(path, validation_json(validation))

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:
        write_json(path, comparisons)


def compress_json(record: CompressRecord, facts: RunFacts) -> dict[str, object]:
    """The record of `compress`, with classes and samples per class."""
    return {
        **to_json(record),
        "classes": list(facts.classes),
        "counts": list(facts.counts),
        "random_weights": facts.random_weights,
    }


def validation_json(validation: Validation) -> dict[str, object]:
    """The values of a validation, with their intervals under `intervals`."""
    measurement, classes = validation.measurement, validation.classes
    return {
        **_accuracy_record(measurement, classes),
        **_speed_record(measurement.speed),
        "not_measured": measurement.not_measured or None,
        "verdict": validation.outcome,
        "checks": to_json(validation.verdict.checks),
        "classes": list(classes),
        "intervals": {
            "accuracy": to_json(measurement.accuracy),
            "drop": to_json(measurement.drop),
            "speed": _intervals_of_speed(measurement.speed),
        },
        "golden_agreement": measurement.golden_agreement,
        "artifact_sha256": measurement.artifact_sha256,
        "size_bytes": measurement.size_bytes,
        "environment": measurement.environment,
        "settings": measurement.settings,
        "random_weights": measurement.random_weights,
        "notes": list(measurement.notes),
    }


def _intervals_of_speed(speed: Speed | None) -> object:
    """`speed` with the ends of its intervals; they are null where it has too few processes for any."""
    if speed is None or has_intervals(speed):
        return to_json(speed)
    return _without_ends(to_json(shown_speed(speed)))


def _without_ends(data: object) -> object:
    if not isinstance(data, dict):
        return data
    ends = dict.fromkeys(("low", "high")) if data.keys() == {"value", "low", "high"} else {}
    return {key: _without_ends(value) for key, value in data.items()} | ends


def _speed_record(speed: Speed | None) -> dict[str, object]:
    if speed is None:
        keys = ("latency_ms", "throughput_ips", "load_ms", "first_ms", "peak_memory_mb", "probed")
        return {**dict.fromkeys(keys), "noise": []}
    latency = speed.latency
    return {
        "latency_ms": {
            "p50": latency.p50.value,
            "p90": latency.p90.value,
            "p99": latency.p99.value,
            "n": latency.n,
            "batch": latency.batch,
            "processes": latency.processes,
        },
        "throughput_ips": {str(batch): rate.value for batch, rate in speed.throughput_ips.items()},
        "load_ms": speed.load_ms.value,
        "first_ms": speed.first_ms.value,
        "peak_memory_mb": speed.peak_memory_mb.value,
        "probed": {name: estimate.value for name, estimate in speed.probed.items()},
        "noise": list(speed.noise),
    }


def _accuracy_record(measurement: Measurement, classes: Sequence[str]) -> dict[str, object]:
    accuracy, drop = measurement.accuracy, measurement.drop
    if accuracy is None:
        keys = ("top1", "recall_per_class", "mean_recall", "rare_recall", "worst_recall", "drop")
        return {**dict.fromkeys(keys), "rare_classes": None, "images_per_class": None}
    return {
        "top1": accuracy.top1.value,
        "recall_per_class": [part.value if part else None for part in accuracy.recall_per_class],
        "mean_recall": accuracy.mean_recall.value,
        "rare_recall": accuracy.rare_recall.value if accuracy.rare_recall else None,
        "worst_recall": accuracy.worst_recall.value,
        "drop": drop.value if drop else None,
        "rare_classes": [classes[k] for k in accuracy.rare_classes],
        "images_per_class": list(accuracy.images_per_class),
    }
