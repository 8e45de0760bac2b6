"""How long work tells how far it is: `with progress("Distilling", total=600) as advance: advance()`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[], None]]:  # noqa: ARG001 - the seam's signature
    """The progress that shows nothing."""
    yield lambda: None
