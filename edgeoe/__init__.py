"""edgeoe: compress a vision classifier with a few class-imbalanced images, and ship it with a verdict.

    import edgeoe
    run = edgeoe.compress(teacher=network, samples="few", ood="pictures", out="runs/a")
    edgeoe.export(run)
    edgeoe.build(run, "host-cpu")
    edgeoe.validate(run, "host-cpu", test="test")

The names below are imported when first used, so that `import edgeoe` costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without typing: what comes next handles Ctrl-C, and must come soon

if TYPE_CHECKING:
    from edgeoe.api.arguments import load_target
    from edgeoe.api.devices import build, bundle, collect, collect_table, compare, latency_table, validate
    from edgeoe.api.students import compress, deploy, export, inspect
    from edgeoe.errors import (
        BackendError,
        ConfigError,
        DataError,
        DeviceError,
        EdgeoeError,
        ExportError,
        OutOfMemoryError,
        OutOfReachError,
        PruningError,
        RunError,
        TargetError,
        TeacherError,
        TrainingError,
    )
    from edgeoe.graph.precision import Int8Settings
    from edgeoe.progress import silent
    from edgeoe.records.bundle import BundleRecord
    from edgeoe.records.comparison import AccuracyChange, Comparison, LatencyChange
    from edgeoe.records.graphs import ExportRecord, GraphRecord, LayerSensitivity, RefusedGraph
    from edgeoe.records.inspection import BlockShare, GroupShare, InspectRecord
    from edgeoe.records.latency_table import LatencyTable, PartSaving, TableReport
    from edgeoe.records.measurement import (
        Accuracy,
        Artifact,
        Check,
        Estimate,
        Latency,
        Measurement,
        Speed,
        Validation,
        Verdict,
    )
    from edgeoe.records.result import Predictions, Result, SpeedSamples
    from edgeoe.run.directory import Run
    from edgeoe.settings import CompressSettings, OESettings, PreprocessSettings
    from edgeoe.stages.compare import GateSettings
    from edgeoe.stages.deployed import Bundled, Judged, Unreached
    from edgeoe.stages.sides import Side
    from edgeoe.targets.profile import Budget, DeviceFacts, EngineSettings, MeasureSettings, RuntimeSettings, Target

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "Artifact",
    "BackendError",
    "BlockShare",
    "Budget",
    "BundleRecord",
    "Bundled",
    "Check",
    "Comparison",
    "CompressSettings",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DeviceFacts",
    "EdgeoeError",
    "EngineSettings",
    "Estimate",
    "ExportError",
    "ExportRecord",
    "GateSettings",
    "GraphRecord",
    "GroupShare",
    "InspectRecord",
    "Int8Settings",
    "Judged",
    "Latency",
    "LatencyChange",
    "LatencyTable",
    "LayerSensitivity",
    "MeasureSettings",
    "Measurement",
    "OESettings",
    "OutOfMemoryError",
    "OutOfReachError",
    "PartSaving",
    "Predictions",
    "PreprocessSettings",
    "PruningError",
    "RefusedGraph",
    "Result",
    "Run",
    "RunError",
    "RuntimeSettings",
    "Side",
    "Speed",
    "SpeedSamples",
    "TableReport",
    "Target",
    "TargetError",
    "TeacherError",
    "TrainingError",
    "Unreached",
    "Validation",
    "Verdict",
    "build",
    "bundle",
    "collect",
    "collect_table",
    "compare",
    "compress",
    "deploy",
    "export",
    "inspect",
    "latency_table",
    "load_target",
    "silent",
    "validate",
]

_HOMES = {
    "edgeoe.api.arguments": ("load_target",),
    "edgeoe.api.devices": (
        "build",
        "bundle",
        "collect",
        "collect_table",
        "compare",
        "latency_table",
        "validate",
    ),
    "edgeoe.api.students": (
        "compress",
        "deploy",
        "export",
        "inspect",
    ),
    "edgeoe.errors": (
        "BackendError",
        "ConfigError",
        "DataError",
        "DeviceError",
        "EdgeoeError",
        "ExportError",
        "OutOfMemoryError",
        "OutOfReachError",
        "PruningError",
        "RunError",
        "TargetError",
        "TeacherError",
        "TrainingError",
    ),
    "edgeoe.graph.precision": ("Int8Settings",),
    "edgeoe.progress": ("silent",),
    "edgeoe.records.bundle": ("BundleRecord",),
    "edgeoe.records.comparison": (
        "AccuracyChange",
        "Comparison",
        "LatencyChange",
    ),
    "edgeoe.records.graphs": (
        "ExportRecord",
        "GraphRecord",
        "LayerSensitivity",
        "RefusedGraph",
    ),
    "edgeoe.records.inspection": (
        "BlockShare",
        "GroupShare",
        "InspectRecord",
    ),
    "edgeoe.records.latency_table": (
        "LatencyTable",
        "PartSaving",
        "TableReport",
    ),
    "edgeoe.records.measurement": (
        "Accuracy",
        "Artifact",
        "Check",
        "Estimate",
        "Latency",
        "Measurement",
        "Speed",
        "Validation",
        "Verdict",
    ),
    "edgeoe.records.result": (
        "Predictions",
        "Result",
        "SpeedSamples",
    ),
    "edgeoe.run.directory": ("Run",),
    "edgeoe.settings": (
        "CompressSettings",
        "OESettings",
        "PreprocessSettings",
    ),
    "edgeoe.stages.compare": ("GateSettings",),
    "edgeoe.stages.deployed": (
        "Bundled",
        "Judged",
        "Unreached",
    ),
    "edgeoe.stages.sides": ("Side",),
    "edgeoe.targets.profile": (
        "Budget",
        "DeviceFacts",
        "EngineSettings",
        "MeasureSettings",
        "RuntimeSettings",
        "Target",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgeoe' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
