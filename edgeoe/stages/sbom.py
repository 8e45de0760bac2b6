"""sbom: what a run or a bundle consists of, as a CycloneDX 1.6 document: files with hashes, packages with versions.

Plain JSON, without a library: every bundle has one, its bytes depend on its content alone (no time, no random number),
and the format needs but a few keys. A test checks it against CycloneDX's schema.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from edgeoe import __version__
from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.run.directory import Run
from edgeoe.run.placement import LOCK

__all__ = ["SBOM", "sbom_of", "sbom_of_run"]

SBOM = "sbom.cdx.json"
_MODELS = (".onnx", ".plan", ".safetensors")


def sbom_of(
    name: str, files: Mapping[str, str], *, packages: Mapping[str, str], needs: Mapping[str, str] | None = None
) -> str:
    """The SBOM of the thing called `name`, as JSON.

    files: sha256 by path.
    packages: versions of the packages that it contains or was made with.
    needs: further packages that whoever runs it must have, with the versions that are required; empty for any.
    """
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "edgeoe", "version": __version__}]},
            "component": {"type": "application", "bom-ref": "this", "name": name},
        },
        "components": [
            *(_file(path, digest) for path, digest in sorted(files.items())),
            *(_package(package, version) for package, version in sorted(packages.items())),
            *(_need(package, version) for package, version in sorted((needs or {}).items())),
        ],
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, content)}"
    return json.dumps(document, indent=2) + "\n"


def _file(path: str, digest: str) -> dict[str, Any]:
    kind = "machine-learning-model" if path.endswith(_MODELS) else "file"
    return {
        "type": kind,
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _package(name: str, version: str) -> dict[str, Any]:
    if name == "python":
        return {"type": "platform", "bom-ref": f"python@{version}", "name": name, "version": version}
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _need(name: str, version: str) -> dict[str, Any]:
    """A package that is not contained; `version` is what is required of it."""
    properties = [{"name": "edgeoe:requires", "value": f"{name}{version}"}]
    return {"type": "library", "bom-ref": f"needs:{name}", "name": name, "scope": "excluded", "properties": properties}


def sbom_of_run(run: Run) -> str:
    """The SBOM of the files of `run`, as they lie there, and of the packages that created it.

    Raises RunError for a link.
    """
    return sbom_of(run.path.name or "run", dict(_files_of(run.path)), packages=run.versions)


def _files_of(folder: Path) -> Iterator[tuple[str, str]]:
    """(path, sha256) of all files below `folder`, without its lock. Raises RunError for a link."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink():
                raise RunError(f"{path}: a link, and a run consists of plain files and folders.")
            if name in names and name != LOCK:
                yield path.relative_to(folder).as_posix(), file_sha256(path)
