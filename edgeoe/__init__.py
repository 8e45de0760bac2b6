"""edgeoe: compress a vision classifier with a few class-imbalanced images, and ship it with a verdict.

    import edgeoe
    run = edgeoe.compress(edgeoe.CompressSettings(...), out=Path("runs/a"))
    edgeoe.export(run); edgeoe.build(run, target); edgeoe.validate(run, target, test=Path("test"))

The names below are imported when first used, so that `import edgeoe` costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without typing: what comes next handles Ctrl-C, and must come soon

if TYPE_CHECKING:
    from edgeoe.pipeline import Bundled, Judged, build, bundle, collect, compress, deploy, export, inspect, validate
    from edgeoe.settings import CompressSettings, OESettings
    from edgeoe.stages.compare import compare
    from edgeoe.targets.load import load_target

__all__ = [
    "Bundled",
    "CompressSettings",
    "Judged",
    "OESettings",
    "build",
    "bundle",
    "collect",
    "compare",
    "compress",
    "deploy",
    "export",
    "inspect",
    "load_target",
    "validate",
]

_HOME = {
    "CompressSettings": "edgeoe.settings",
    "OESettings": "edgeoe.settings",
    "compare": "edgeoe.stages.compare",
    "load_target": "edgeoe.targets.load",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgeoe' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "edgeoe.pipeline")), name)
