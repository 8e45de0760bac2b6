"""A new run: made in a hidden folder beside its place, and moved there when it is whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeoe.errors import RunError
from edgeoe.files import sync_folder
from edgeoe.interruption import shielded, work_begins
from edgeoe.lock import Lock, locked
from edgeoe.run.directory import PATIENCE_S, Run
from edgeoe.run.placement import LOCK, discard, partial_folder, replace_folder, restore, work_folder

__all__ = ["new_run", "require_free"]


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raise RunError if `path` exists and is neither an empty folder nor, with `overwrite`, a run and nothing else."""
    if path.is_symlink() or path.resolve() == Path.cwd():
        raise RunError(f"{path}: a link or the working folder can't be replaced by a run. Choose another --out.")
    restore(path, timeout_s=PATIENCE_S)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    run = Run(path)
    if not run.is_finished():
        raise RunError(f"{path}: exists and is not a run of edgeoe. Choose another --out.")
    if not overwrite:
        raise RunError(f"{path}: already holds a run. Choose another --out, or pass --overwrite.")
    if foreign := run.foreign_files():
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise RunError(
            f"{path}: holds files that are not of the run, and --overwrite would remove them: {foreign[0]}{more}. "
            "Move them elsewhere, or choose another --out."
        )


@contextmanager
def new_run(path: Path, *, overwrite: bool) -> Iterator[Run]:
    """Create a run that appears at `path` only if the block ends without an exception.

    An earlier run stays until then, and is replaced at once, when no other command uses it any more.

    Raises RunError as `require_free` does, and if another command makes a run there.
    """
    require_free(path, overwrite=overwrite)
    work_begins()
    with work_folder(path, timeout_s=PATIENCE_S) as lock:
        require_free(path, overwrite=overwrite)  # another command may have finished one
        yield Run(partial_folder(path), private=True)
        _put_in_place(lock, path, overwrite=overwrite)


def _put_in_place(lock: Lock, path: Path, *, overwrite: bool) -> None:
    """Move the folder that `lock` is in to `path`, when no other command uses the run there any more."""
    folder = partial_folder(path)
    sync_folder(folder, everything=True)
    while path.exists() and any(path.iterdir()):
        try:
            with locked(path / LOCK, timeout_s=math.inf):
                require_free(path, overwrite=overwrite)
                with shielded():
                    replace_folder(folder, path)
                    lock.path = path.resolve() / LOCK
                    discard(folder, beside=path)
                return
        except FileNotFoundError:
            continue  # removed meanwhile
    with shielded():
        replace_folder(folder, path)
        lock.path = path.resolve() / LOCK
