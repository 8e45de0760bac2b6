"""What a user's code does besides what it returns: lines that it prints, and global state that it changes."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path

import torch

__all__ = ["contained"]

_log = logging.getLogger(__name__)
_MOST = 20  # lines of one source that are logged
_logged: set[tuple[str, str]] = set()  # (source, line): a factory runs several times


@contextmanager
def contained(source: str) -> Iterator[None]:
    """A block of a user's code after which the process is as it was before.

    What it prints to stdout is logged, each line once, since reports go there. Restored are the working folder,
    sys.path, the handlers and levels of logging, filters of warnings, and of torch: default type and device, threads,
    gradient mode, precision of matrix products, and whether algorithms must be deterministic. Random seeds are not:
    the random weights of `--weights random` follow from them.

    source: what the lines are logged under.
    """
    printed = io.StringIO()
    with ExitStack() as restored:
        restored.callback(_log_lines, source, printed)  # last, when logging is as it was
        restored.callback(_restore_torch, *_torch_state())
        restored.callback(_restore_logging, *_logging_state())
        restored.callback(sys.path.__setitem__, slice(None), sys.path.copy())
        with suppress(OSError):  # the working folder may be gone
            restored.callback(_return_to, Path.cwd())
        restored.enter_context(warnings.catch_warnings())
        restored.enter_context(_stdout_of_c_to_stderr())
        restored.enter_context(redirect_stdout(printed))
        yield


@contextmanager
def _stdout_of_c_to_stderr() -> Iterator[None]:
    """A block in which what libraries in C and child processes write to stdout goes to stderr."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, ValueError):  # there is none
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _log_lines(source: str, printed: io.StringIO) -> None:
    lines = [line.rstrip() for line in printed.getvalue().replace("\r", "\n").splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line and (source, line) not in _logged]
    _logged.update((source, line) for line in lines)
    for line in lines[:_MOST]:
        _log.warning("%s prints: %s", source, line)
    if lines[_MOST:]:
        _log.warning("%s prints %d lines more.", source, len(lines) - _MOST)


def _return_to(folder: Path) -> None:
    with suppress(OSError):
        os.chdir(folder)


def _logging_state() -> tuple[list[logging.Handler], int, int]:
    root = logging.getLogger()
    return root.handlers.copy(), root.level, root.manager.disable


def _restore_logging(handlers: list[logging.Handler], level: int, disabled: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disabled)


def _torch_state() -> tuple[torch.dtype, torch.device, int, bool, str, bool, bool]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _restore_torch(
    kind: torch.dtype,
    device: torch.device,
    threads: int,
    gradients: bool,
    precision: str,
    deterministic: bool,
    warn_only: bool,
) -> None:
    torch.set_default_dtype(kind)
    if torch.get_default_device() != device:
        torch.set_default_device(None)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)
    if torch.get_float32_matmul_precision() != precision:
        torch.set_float32_matmul_precision(precision)
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
