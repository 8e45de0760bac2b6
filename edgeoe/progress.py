"""Progress reporting: `with progress("Distilling", total=600) as advance: advance()`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[], None]]:  # noqa: ARG001 - the seam's signature
    """Progress that shows nothing."""
    yield lambda: None
