"""An unpacked bundle on a device: its files are checked, progress is printed, and its program ends with a code."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from edgeoe.codec import read_json_object, record_from
from edgeoe.errors import EdgeoeError, RunError, first_line, is_out_of_memory, on_command_line
from edgeoe.files import file_sha256, way_out
from edgeoe.interruption import EXIT_CODE, INTERRUPTED, handling_signals, was_interrupted, work_begins
from edgeoe.system_errors import system_error, system_error_text
from edgeoe.text import visible, visible_lines

__all__ = ["FACTS", "LIBRARY", "lines", "read_facts", "run_program"]

BUG = 70  # EX_SOFTWARE of sysexits.h
FACTS = "bundle.json"  # the file that says what a bundle holds
LIBRARY = "lib"  # the folder of a bundle that modules are imported from


class Facts(Protocol):
    """Content of a bundle.

    files: sha256 of every other file in the bundle.
    """

    @property
    def files(self) -> dict[str, str]: ...


FactsT = TypeVar("FactsT", bound=Facts)


def read_facts(kind: type[FactsT], bundle: Path, *, format: int) -> FactsT:  # noqa: A002 - the key in the file
    """The facts in the folder `bundle`, whose files are as they were bundled.

    Raises RunError if a file is missing, a link, or was changed, or a module was added.
    """
    try:
        data = read_json_object(bundle / FACTS)
        if "format" in data and data["format"] != format:
            raise RunError(
                f"{bundle}: a bundle of another version of edgeoe (format {data['format']}, here {format}). "
                "Make it again."
            )
        facts = record_from(kind, data, format=format)
    except (OSError, ValueError):
        raise RunError(f"{bundle}: not a bundle of edgeoe: {FACTS} is missing or damaged. Unpack it again.") from None
    for name, sha256 in facts.files.items():
        path = bundle / name
        if way_out(bundle, name) is not None:
            raise RunError(f"{path}: a link, or a path out of the bundle. Unpack the bundle again.")
        if not path.is_file() or file_sha256(path) != sha256:
            raise RunError(f"{path}: missing or changed since it was bundled. Unpack the bundle again.")
    for path in (bundle / LIBRARY).rglob("*.py"):
        if path.relative_to(bundle).as_posix() not in facts.files:
            raise RunError(f"{path}: not a file of this bundle, but might be imported. Unpack the bundle again.")
    return facts


@contextmanager
def lines(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress for a serial console: one line for each tenth."""
    steps, tenths = 0, 0

    def advance() -> None:
        nonlocal steps, tenths
        steps += 1
        if 10 * steps // total > tenths:
            tenths = 10 * steps // total
            print(f"{title}: {10 * tenths} %", file=sys.stderr, flush=True)

    yield advance


def run_program(
    work: Callable[[Path, Path], str],
    *,
    about: str,
    out: str,
    arguments: list[str] | None = None,
    interrupted: str = INTERRUPTED,
) -> int:
    """Run the program of a bundle, and print what came of it.

    work: (folder of the bundle, --out) -> what to print.
    about: what the program does, for its help.
    out: where the result goes unless --out says otherwise.
    arguments: of the command line; None is that of this process.
    interrupted: what to print after an interruption.
    Returns 0 if a result was written, 130 if interrupted, 2 for what the user can fix, and 70 for a bug.
    """
    bundle = Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(prog="run.py", description=about)
    parser.add_argument("--out", type=Path, default=Path(out), help="where the result goes")
    path: Path = parser.parse_args(arguments).out
    try:
        with handling_signals(until_exit=False):
            work_begins()
            text = work(bundle, path)
            print(visible_lines(text), flush=True)
    except (Exception, KeyboardInterrupt) as reason:
        if was_interrupted() or isinstance(reason, KeyboardInterrupt):  # within an import it becomes an ImportError
            print(interrupted, file=sys.stderr)
            return EXIT_CODE
        with on_command_line():
            message = _message(reason)
        if message is None:
            traceback.print_exc()
            return BUG
        print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
        return 2
    return 0


def _message(reason: Exception) -> str | None:
    """What the user can do about `reason`; None for a bug."""
    if is_out_of_memory(reason):
        return f"out of memory: {first_line(reason).rstrip('.')}. Close other programs, or bundle a smaller batch."
    if isinstance(reason, EdgeoeError):
        return str(reason)
    error = system_error(reason)
    return None if error is None else system_error_text(error)
