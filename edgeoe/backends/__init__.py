"""Inference runtimes. The seam has two nouns: a Backend builds and opens artifacts, a Runner runs one.

A module here imports anywhere: its runtime is imported by the functions that use it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeoe.progress import Progress, silent
from edgeoe.registry import BACKENDS
from edgeoe.targets.backends import Traits

if TYPE_CHECKING:
    from edgeoe.targets.profile import Target

__all__ = ["Backend", "Runner", "backend_of"]


class Runner(Protocol):
    """A loaded artifact.

    image_shape: (C, H, W) of the images that it takes.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) logits of (N, C, H, W) normalised images; returns when they are ready."""
        ...


class Backend(Protocol):
    """A runtime. Its verbs raise BackendError where it is missing or refuses.

    traits: of the class: what is known of it without its runtime.
    """

    traits: Traits

    def check(self, target: Target) -> None:
        """Raise BackendError if the runtime is not here, or lacks what `target` runs on: no graph is needed to tell."""
        ...

    def build(self, graph: Path, target: Target, artifact: Path, *, progress: Progress = silent) -> dict[str, Any]:
        """Write `artifact` for `target` from the ONNX `graph` and prove that it loads and runs.

        Returns the settings that the artifact is tied to. Files that belong to it are named after it, with more
        appended.
        """
        ...

    def open(self, artifact: Path, target: Target) -> AbstractContextManager[Runner]:
        """A context that loads `artifact` when entered and frees it when left."""
        ...

    def versions(self) -> dict[str, str]:
        """The versions that an artifact is tied to."""
        ...


def backend_of(target: Target) -> Backend:
    """The backend that `target` names. Raises ConfigError for an unknown name."""
    backend: Backend = BACKENDS.load(target.backend)()
    return backend
