"""The folder of a demo: a new one, or an earlier one that comes back unless the new one is finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgeoe.errors import RunError
from edgeoe.files import hidden_name, new_parents
from edgeoe.interruption import shielded, work_begins
from edgeoe.lock import BusyError, locked
from edgeoe.run.placement import discard, sweep_discarded

__all__ = ["new_demo"]


@contextmanager
def new_demo(out: Path, *, overwrite: bool) -> Iterator[None]:
    """A block that writes a demo into the folder `out`, which does not exist yet, or holds an earlier demo.

    If the block fails, `out` is removed, and an earlier demo is put back; if the process is killed, the next demo in
    `out` does that.

    overwrite: replace an earlier demo.
    Raises RunError if `out` can't be used, or another command makes a demo there.
    """
    out = out.parent.resolve() / out.name
    lock, earlier, making = (out.with_name(hidden_name(out.name, end)) for end in ("lock", "earlier", "making"))
    work_begins()
    with new_parents(out), ExitStack() as stack:
        try:
            stack.enter_context(locked(lock))
        except BusyError as reason:
            raise RunError(
                f"{out}: being made by {reason}. Wait until that has ended, or choose another --out."
            ) from None
        sweep_discarded(out)
        if making.exists() or not out.exists():  # a killed command left it there
            _put_back(earlier, out, making)
        discard(earlier, beside=out)
        _require_free(out, overwrite=overwrite)
        if out.exists():
            out.rename(earlier)
        try:
            making.touch()
            yield
        except BaseException:
            with shielded():
                _put_back(earlier, out, making)
            raise
        with shielded():
            making.unlink()
            discard(earlier, beside=out)


def _require_free(out: Path, *, overwrite: bool) -> None:
    """Raise RunError if `out` exists and is not, with `overwrite`, a demo."""
    if not out.exists():
        return
    if out.is_symlink() or not any((out / "images").glob("few-*.txt")):
        raise RunError(f"{out}: exists and is not a demo. Choose another --out.")
    if not overwrite:
        raise RunError(f"{out}: already holds a demo. Choose another --out, or pass --overwrite.")


def _put_back(earlier: Path, out: Path, making: Path) -> None:
    """Remove what is at `out`, and move the earlier demo there, if there is one.

    making: the file whose presence says that the demo at `out` is not finished.
    """
    discard(out, beside=out)
    if earlier.exists():
        earlier.rename(out)
    making.unlink(missing_ok=True)
