"""Images that are in two of samples, OOD pool and test images, which flatters accuracy or spoils training."""

from __future__ import annotations

import logging

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
    """Log a warning if OOD images are labelled samples: the same pixels, or, where the pool is streamed, files."""
    if pool.images.memory is not None and samples.images.memory is not None:
        found = shared(pool.images, samples.images.digests)
        known = dict(zip(samples.images.digests.tolist(), samples.images.paths, strict=True))
        pairs = [(known[int(pool.images.digests[index])], pool.images.paths[index]) for index in found]
    else:
        pairs = copies(samples.images.paths, pool.images.paths)
    if pairs:
        _log.warning(
            "%d OOD image(s) are labelled samples, too (first: %s and %s): what is meant to be of no class has one. "
            + said("Remove them from --ood."),
            len({path for _, path in pairs}),
            *pairs[0],
        )


def write_content(run: Run, samples: Samples, pool: Pool | None) -> None:
    """Note in `run` what its samples, and the OOD images that were read, look like, so that others can be compared."""
    seen = pool.images.digests if pool else np.zeros(0, np.uint64)
    run.save_tensors(
        layout.CONTENT,
        samples=samples.images.digests,
        names=np.frombuffer("\n".join(map(str, samples.images.paths)).encode(), np.uint8),
        pool=np.unique(seen[seen != 0]),
    )


def report_test_overlap(run: Run, test: Samples, *, progress: Progress = silent) -> None:
    """Log warnings if test images are samples or OOD images of `run`: the same pixels, as the network takes them.

    A run of an earlier version says nothing. Copies at another quality or size are not seen.
    """
    if not run.has(layout.CONTENT):
        return
    content = run.read_tensors(layout.CONTENT)
    test.images.read_all(progress=progress, title="Comparing test images")
    if len(found := shared(test.images, content["samples"])):
        names = content["names"].tobytes().decode().split("\n")
        same = np.flatnonzero(content["samples"] == test.images.digests[found[0]])[0]
        _warn(test, found, f"labelled samples, too (first: {test.images.paths[found[0]]} and {names[same]})")
    if len(found := shared(test.images, content["pool"])):
        _warn(test, found, f"OOD images of the student, too (first: {test.images.paths[found[0]]})")


def _warn(test: Samples, found: NDArray[np.int64], what: str) -> None:
    _log.warning(
        "%d of %d test images are %s: accuracy on them says little of others. " + said("Remove them from --test."),
        len(found),
        len(test.labels),
        what,
    )
