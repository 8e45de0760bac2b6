"""Overlap of samples, OOD pool and test images, which inflates accuracy or harms training."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.data.overlap import copies, shared
from edgeoe.data.pool import Pool
from edgeoe.data.samples import Samples
from edgeoe.errors import said
from edgeoe.progress import Progress, silent
from edgeoe.run import layout
from edgeoe.run.directory import Run

__all__ = ["report_samples_in_pool", "report_test_overlap", "write_content"]

_log = logging.getLogger(__name__)


def report_samples_in_pool(samples: Samples, pool: Pool) -> None:
    """Log a warning if OOD images are labelled samples: by pixels, or by files if the pool is streamed."""
    if pool.images.memory is not None and samples.images.memory is not None:
        indices = shared(pool.images, samples.images.digests)
        paths_by_digest = dict(zip(samples.images.digests.tolist(), samples.images.paths, strict=True))
        pairs = [(paths_by_digest[int(pool.images.digests[index])], pool.images.paths[index]) for index in indices]
    else:
        pairs = copies(samples.images.paths, pool.images.paths)
    if pairs:
        _log.warning(
            "%d OOD image(s) are labelled samples, too (first: %s and %s): OOD images must not belong to a class. "
            + said("Remove them from --ood."),
            len({path for _, path in pairs}),
            *pairs[0],
        )


def write_content(run: Run, samples: Samples, pool: Pool | None, *, folder: Path) -> None:
    """Write digests of the samples, and of the OOD images that were read, into `run`, to compare test images with.

    folder: of the samples; their paths are kept relative to it.
    """
    names = (os.path.relpath(path, folder) for path in samples.images.paths)
    digests = pool.images.digests if pool else np.zeros(0, np.uint64)
    run.save_tensors(
        layout.CONTENT,
        samples=samples.images.digests,
        names=np.frombuffer("\n".join(names).encode(), np.uint8),
        pool=np.unique(digests[digests != 0]),
    )


def report_test_overlap(run: Run, test: Samples, *, progress: Progress = silent) -> None:
    """Log warnings if test images are samples or OOD images of `run`, by the pixels that the network takes.

    It ignores runs of earlier versions, which have no digests, and can't detect copies of another quality or size.
    """
    if not run.has(layout.CONTENT):
        if run.has(layout.STRIPPED):
            _log.warning("this run was stripped: test images are not compared with its labelled samples")
        return
    content = run.read_tensors(layout.CONTENT)
    test.images.read_all(progress=progress, title="Comparing test images")
    if len(indices := shared(test.images, content["samples"])):
        names = content["names"].tobytes().decode().split("\n")
        same = np.flatnonzero(content["samples"] == test.images.digests[indices[0]])[0]
        _warn(test, indices, f"labelled samples, too (first: {test.images.paths[indices[0]]} and {names[same]})")
    if len(indices := shared(test.images, content["pool"])):
        _warn(test, indices, f"OOD images of the student, too (first: {test.images.paths[indices[0]]})")


def _warn(test: Samples, indices: NDArray[np.int64], what: str) -> None:
    _log.warning(
        "%d of %d test images are %s: accuracy on them does not carry over to new images. "
        + said("Remove them from --test."),
        len(indices),
        len(test.labels),
        what,
    )
