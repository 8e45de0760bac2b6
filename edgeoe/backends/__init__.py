"""Inference runtimes: a Backend builds and opens artifacts, a Runner runs one.

Every module here can be imported anywhere: the functions that use a runtime import it.
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
        """Logits (N, K) of normalised images `x` (N, C, H, W); returns when they are ready."""
        ...


class Backend(Protocol):
    """A runtime. Its methods raise BackendError if the runtime is missing or fails.

    traits: facts that are known without the runtime; an attribute of the class.
    """

    traits: Traits

    def check(self, target: Target) -> None:
        """Raise BackendError if the runtime, or the processor that `target` needs, is missing on this machine."""
        ...

    def build(self, graph: Path, target: Target, artifact: Path, *, progress: Progress = silent) -> dict[str, Any]:
        """Write `artifact` for `target` from the ONNX `graph`, and check that it loads and runs.

        Returns the settings that the artifact depends on. Names of its side files are its own name with a suffix.
        """
        ...

    def open(self, artifact: Path, target: Target) -> AbstractContextManager[Runner]:
        """A context that loads `artifact` on entry and frees it on exit."""
        ...

    def versions(self) -> dict[str, str]:
        """The versions that an artifact depends on."""
        ...


def backend_of(target: Target) -> Backend:
    """The backend that `target` names. Raises ConfigError for an unknown name."""
    backend: Backend = BACKENDS.load(target.backend)()
    return backend
