"""Facts of a device that must be known before anything of edgeoe can run there.

It is sent as text, and needs the standard library and the syntax of Python 3.6 alone: an older Python than edgeoe needs
must be able to say so.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from typing import Any, Dict, List, Optional


def facts(folder: str, imports: List[str]) -> Dict[str, Any]:
    """What must be known before a bundle can be sent: Python, the packages `imports`, the system, space and time.

    folder: of edgeoe on the device.
    """
    disk, system = shutil.disk_usage(folder), os.uname()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "machine": system.machine,
        "system": system.sysname + " " + system.release,
        "distribution": _os_release(),
        "jetson": os.path.exists("/etc/nv_tegra_release"),
        "externally_managed": _externally_managed(),
        "virtual_environment": sys.prefix != sys.base_prefix,
        "free_disk_mb": disk.free // 10**6,
        "free_memory_mb": _free_memory_mb(),
        "time": time.time(),
        "packages": {name: _version(name) for name in imports},
    }


def _os_release() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as stream:
            found = re.search(r'^PRETTY_NAME="?([^"\n]*)', stream.read(), re.MULTILINE)
            return found.group(1) if found else ""
    except OSError:
        return ""


def _externally_managed() -> bool:
    """Whether pip may not install into this Python. Source: PEP 668."""
    return os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))


def _free_memory_mb() -> Optional[int]:
    try:
        with open("/proc/meminfo", encoding="utf-8") as stream:
            found = re.search(r"^MemAvailable:\s*(\d+) kB", stream.read(), re.MULTILINE)
            return int(found.group(1)) * 1024 // 10**6 if found else None
    except OSError:
        return None


def _version(package: str) -> Dict[str, str]:
    """The version of a package, or why it can't be imported; in a process of its own, which a bad one may crash."""
    program = f"import {package}; print(getattr({package}, '__version__', ''))"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    if done.returncode == 0:
        return {"version": done.stdout.decode().strip().splitlines()[-1:][0] if done.stdout.strip() else ""}
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return {"error": lines[-1] if lines else f"killed by signal {-done.returncode}"}
