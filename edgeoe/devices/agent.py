"""What runs on a device that is reached by SSH: it keeps files by their hashes, and runs one bundle at a time.

It is sent as text over each connection, so that nothing is installed. It needs the standard library alone and has the
syntax of Python 3.6: an older Python than edgeoe needs must be able to say so.

Requests come on stdin and replies go to stdout, each a line of JSON followed by `size` bytes. Every operation may be
repeated, so that a cut connection is resumed by asking again.

    FOLDER/objects/SHA256    files of bundles; .SHA256.part is one that has not arrived whole
    FOLDER/jobs/ID/          bundle/, out/ (the working folder), command, log, alive (locked by its process), exit
    FOLDER/lock              locked by the job that runs: one at a time
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

GREETING = b"edgeoe-agent 1\n"
CHUNK = 1 << 20
_POLL_S = 0.1
_START_S = 10.0  # within which the process of a job is there
_OLD_S = 7 * 24 * 3600.0  # after which what a host left behind is removed
_ID = re.compile(r"[0-9a-f]{16,64}")

Reply = Tuple[Dict[str, Any], bytes]


class Refused(Exception):
    """A request that can't be met; its text is for the user."""


class Store:
    """The folder of edgeoe on this device."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))
        self.objects = os.path.join(self.folder, "objects")
        self.jobs = os.path.join(self.folder, "jobs")
        for path in (self.objects, self.jobs):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def object(self, sha256: str) -> str:
        return os.path.join(self.objects, _checked(sha256))

    def part(self, sha256: str) -> str:
        return os.path.join(self.objects, "." + _checked(sha256) + ".part")

    def job(self, name: str, *parts: str) -> str:
        return os.path.join(self.jobs, _checked(name), *parts)


def _checked(name: str) -> str:
    if _ID.fullmatch(name):
        return name
    raise Refused(f"not an identifier: {name!r}")


# Files


def have(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """{sha256: bytes that are there} for each of `files` that is not there whole."""
    there = [sha256 for sha256 in request["files"] if os.path.isfile(store.object(sha256))]
    for sha256 in there:
        os.utime(store.object(sha256))  # used last
    return {"missing": {sha256: _size(store.part(sha256)) for sha256 in request["files"] if sha256 not in there}}, b""


def put(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """Append `data` to the file `sha256` at `offset`; `total` is its size. Returns how many bytes are there."""
    sha256, part = request["sha256"], store.part(request["sha256"])
    if os.path.isfile(store.object(sha256)):
        return {"there": request["total"]}, b""
    there = _size(part)
    if request["offset"] != there:
        return {"there": there}, b""
    with open(part, "ab") as stream:
        stream.write(data)
    there += len(data)
    if there < request["total"]:
        return {"there": there}, b""
    if _sha256(part) != sha256:
        os.unlink(part)
        return {"there": 0}, b""
    os.rename(part, store.object(sha256))
    return {"there": there}, b""


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# Jobs


def start(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """Start the job `job`, unless it was started: `files` {name: sha256} are its bundle, `command` is run in out/.

    An `exclusive` job runs alone. {python} and {bundle} in the command stand for this interpreter and the folder of the
    bundle. The reply names files that are missing, as `have` does.
    """
    name = request["job"]
    if os.path.exists(store.job(name, "command")):
        return {"missing": {}}, b""
    missing = have(store, {"files": sorted(set(request["files"].values()))}, b"")[0]["missing"]
    if missing:
        return {"missing": missing}, b""
    bundle, out = store.job(name, "bundle"), store.job(name, "out")
    shutil.rmtree(store.job(name), ignore_errors=True)
    os.makedirs(out)
    for file, sha256 in request["files"].items():
        path = os.path.join(bundle, *_parts(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _copy(store.object(sha256), path)
    words = {"python": sys.executable, "bundle": bundle}
    command = [part.format(**words) for part in request["command"]]
    facts = {"command": command, "who": request["who"], "exclusive": request["exclusive"]}
    agent = os.path.join(store.job(name), "agent.py")
    with open(agent, "w", encoding="utf-8") as stream:
        stream.write(SOURCE)
    _write(store.job(name, "command"), json.dumps(facts))
    subprocess.Popen(
        [sys.executable, agent, "run", store.folder, name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )
    return {"missing": {}}, b""


def _parts(file: str) -> List[str]:
    parts = file.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise Refused(f"a path out of the bundle: {file!r}")
    return parts


def _copy(source: str, path: str) -> None:
    """A copy, not a link: a program that writes to its bundle must not change the stored file."""
    shutil.copyfile(source, path)


def follow(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """What the job has logged from `offset` on, and its state: waiting, running, ended (with `code`) or died.

    It waits up to `wait` seconds for a line, or another state than `known`.
    """
    name, offset, end = request["job"], request["offset"], time.time() + request["wait"]
    if not os.path.exists(store.job(name, "command")):
        return {"state": "unknown"}, b""
    while True:
        state = _state(store, name)  # before the log: what follows the last line is nothing
        with open(store.job(name, "log"), "ab+") as stream:
            stream.seek(offset)
            text = stream.read(CHUNK)
        if len(text) == CHUNK:
            return {"state": "running"}, text  # there may be more of the log
        if text or state["state"] != request["known"] or time.time() > end:
            return state, text
        time.sleep(_POLL_S)


def _state(store: Store, name: str) -> Dict[str, Any]:
    begun = time.time() - os.path.getmtime(store.job(name, "command"))
    alive = _is_alive(store, name) or begun < _START_S  # before the code, which is written before the lock goes
    code = _code(store, name)
    if code is not None:
        return {"state": "ended", "code": code}
    if not alive:
        return {"state": "died"}
    try:
        with open(store.job(name, "waits"), encoding="utf-8") as stream:
            return {"state": "waiting", "for": stream.read()}
    except OSError:
        return {"state": "running"}


def _code(store: Store, name: str) -> Optional[int]:
    try:
        with open(store.job(name, "exit"), encoding="utf-8") as stream:
            return int(stream.read())
    except OSError:
        return None


def _is_alive(store: Store, name: str) -> bool:
    """Whether the process of a job holds its lock."""
    try:
        with open(store.job(name, "alive"), "rb") as stream:
            return not _try_lock(stream)
    except OSError:
        return False


def _try_lock(stream: Any) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as reason:
        if reason.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def fetch(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """A piece of the file `name` in the working folder of a job, from `offset` on, and the `total` size."""
    path = os.path.join(store.job(request["job"], "out"), *_parts(request["name"]))
    if not os.path.isfile(path):
        raise Refused(f"{request['name']}: the job wrote no such file")
    with open(path, "rb") as stream:
        stream.seek(request["offset"])
        return {"total": os.path.getsize(path)}, stream.read(CHUNK)


def stop(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """Interrupt the job: its processes get SIGTERM."""
    if _is_alive(store, request["job"]):
        with open(store.job(request["job"], "alive"), encoding="utf-8") as stream:
            process = stream.read()
        if process:
            os.killpg(int(process), signal.SIGTERM)
    return {}, b""


def clean(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """Remove the job `job`, jobs and parts that were left behind, and the files used longest ago above `keep` bytes."""
    for name in os.listdir(store.jobs):
        age = time.time() - os.path.getmtime(os.path.join(store.jobs, name))
        if (name == request.get("job") or age > _OLD_S) and not _is_alive(store, name):
            shutil.rmtree(os.path.join(store.jobs, name), ignore_errors=True)
    kept = 0
    paths = [os.path.join(store.objects, name) for name in os.listdir(store.objects)]
    for path in sorted(paths, key=os.path.getmtime, reverse=True):
        is_old = path.endswith(".part") and time.time() - os.path.getmtime(path) > _OLD_S
        kept += _size(path)
        if is_old or kept > request["keep"]:
            os.unlink(path)
    return {}, b""


def remove(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """Remove the whole folder. Raises Refused while a job runs in it."""
    with open(os.path.join(store.folder, "lock"), "ab") as lock:
        if not _try_lock(lock):
            raise Refused(f"in use by {_holder(store.folder)}")
        shutil.rmtree(store.folder)
    return {}, b""


def evaluate(store: Store, request: Dict[str, Any], data: bytes) -> Reply:
    """What the function `facts` of the program `data` returns for `arguments`, and who runs a job now as `holder`."""
    program = {"__name__": "edgeoe-facts"}  # type: Dict[str, Any]
    exec(compile(data, "edgeoe-facts", "exec"), program)
    return {"facts": program["facts"](store.folder, **request["arguments"]), "holder": _running(store)}, b""


def _running(store: Store) -> str:
    """Who runs a job now; "" if nobody does."""
    with open(os.path.join(store.folder, "lock"), "ab") as lock:
        return "" if _try_lock(lock) else _holder(store.folder)


def _holder(folder: str) -> str:
    try:
        with open(os.path.join(folder, "lock"), encoding="utf-8") as stream:
            return stream.read() or "another job"
    except OSError:
        return "another job"


# The process of a job


def run(folder: str, name: str) -> int:
    """Run the command of a job once no other runs, and write its exit code. Its processes form one group."""
    store = Store(folder)
    with open(store.job(name, "command"), encoding="utf-8") as stream:
        facts = json.load(stream)
    alive = open(store.job(name, "alive"), "w", encoding="utf-8")  # noqa: SIM115 - until this process ends
    fcntl.flock(alive, fcntl.LOCK_EX)
    alive.write(str(os.getpgid(0)))
    alive.flush()
    signal.signal(signal.SIGTERM, _interrupted)
    code = 130
    try:
        with open(os.path.join(folder, "lock"), "a+", encoding="utf-8") as lock:
            if facts["exclusive"]:
                _wait_for(lock, store, name)
                lock.truncate(0)
                lock.write(f"{facts['who']}, since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")
                lock.flush()
            signal.signal(signal.SIGTERM, lambda *_: None)  # its program ends by the same signal
            code = _execute(facts["command"], store, name, lock.fileno())
    finally:
        _write(store.job(name, "exit"), str(code))
    return code


def _interrupted(*_: Any) -> None:
    raise SystemExit(130)


def _wait_for(lock: Any, store: Store, name: str) -> None:
    """Wait until the lock is free; the file `waits` says meanwhile who holds it."""
    waits = store.job(name, "waits")
    while not _try_lock(lock):
        _write(waits, _holder(store.folder))
        time.sleep(_POLL_S)
    if os.path.exists(waits):
        os.unlink(waits)


def _execute(command: List[str], store: Store, name: str, lock: int) -> int:
    with open(store.job(name, "log"), "ab") as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=store.job(name, "out"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),  # the device is in use as long as the program runs
            )
        except OSError as reason:
            log.write(f"error: {reason}\n".encode())
            return 127
        code = process.wait()
    return code if code >= 0 else 128 - code


def _write(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(path + ".new", path)


# The conversation

OPERATIONS: Dict[str, Callable[[Store, Dict[str, Any], bytes], Reply]] = {
    "have": have,
    "put": put,
    "start": start,
    "follow": follow,
    "fetch": fetch,
    "stop": stop,
    "clean": clean,
    "remove": remove,
    "evaluate": evaluate,
}


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more. Each names its operation `op` and the `folder` of edgeoe here."""
    replies.write(GREETING)
    replies.flush()
    for line in iter(requests.readline, b""):
        request = json.loads(line.decode())
        data = requests.read(request.get("size", 0))
        try:
            reply, content = OPERATIONS[request["op"]](Store(request["folder"]), request, data)
        except Refused as reason:
            reply, content = {"refused": str(reason)}, b""
        except OSError as reason:
            reply, content = {"refused": f"{reason.filename or request['folder']}: {reason.strerror}"}, b""
        reply["size"] = len(content)
        replies.write(json.dumps(reply).encode() + b"\n" + content)
        replies.flush()


SOURCE = globals().get("SOURCE", "")  # the text of this file, where it was sent over a connection

if __name__ == "__main__":
    os.umask(0o077)
    if sys.argv[1:2] == ["run"]:
        sys.exit(run(*sys.argv[2:4]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
