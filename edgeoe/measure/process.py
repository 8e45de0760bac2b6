"""An artifact loaded in its own process, since processes differ more from each other than calls of one process do."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeoe.codec import to_json
from edgeoe.errors import BackendError
from edgeoe.import_path import child_environment, import_path
from edgeoe.interruption import work_begins
from edgeoe.targets.profile import Target

__all__ = ["Process"]

# Only `sys`, which is built in, is imported before the path is ours: not even json from the working folder.
_START = "import sys; sys.path[:] = sys.argv[1:]; from edgeoe.measure.worker import main; main()"


class Process:
    """A fresh process that loads `artifact` and calls it once; measure/worker.py has the commands that it takes.

    Nothing is imported from the working folder. The process ends when the context is left.
    Raises BackendError with the last line that it printed if the process fails.
    """

    def __init__(self, artifact: Path, target: Target) -> None:
        self._artifact, self._target = artifact, target

    def __enter__(self) -> Process:
        work_begins()
        threads = str(self._target.runtime.threads)
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        self._child = subprocess.Popen(  # noqa: S603 - our own Python, and our own program
            [sys.executable, "-c", _START, *import_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=child_environment(OMP_NUM_THREADS=threads),
        )
        self._loaded: dict[str, float] | None = None
        self._send(artifact=str(self._artifact), target=to_json(self._target))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def loaded(self) -> dict[str, float]:
        """Wait until the artifact is loaded. Returns {"load_ms", "first_ms"}."""
        if self._loaded is None:
            self._loaded = self._answer()
        return self._loaded

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run the worker's command `do`, and return its answer."""
        self.loaded()
        self._send(do=do, **arguments)
        return self._answer()

    def _send(self, **fields: Any) -> None:
        assert self._child.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # there will be no answer
            print(json.dumps(fields), file=self._child.stdin, flush=True)

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None  # noqa: S101 - it is a pipe
        line = self._child.stdout.readline()
        if not line:
            raise BackendError(f"{self._artifact}: the process that measures it died: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._child.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _end(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._errors.close()
