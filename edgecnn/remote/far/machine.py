"""What the device is, and how fast it runs now."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgecnn.remote.far.base import Refused, root_of

__all__ = ["check", "facts", "sensors"]

PATH = os.pathsep.join(
    (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")
)  # nvpmodel is in one


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Ask an interpreter for its version and the installed version of packages."""
    python = os.path.expanduser(request["python"])  # noqa: PTH111
    code = (
        "import json,sys,importlib.metadata as m\n"
        "v={}\n"
        "for n in sys.argv[1:]:\n"
        "    try: v[n]=m.version(n)\n"
        "    except Exception: pass\n"
        "print(json.dumps({'python':sys.version.split()[0],'packages':v}))\n"
    )
    done = subprocess.run(  # noqa: S603 -- the interpreter that the user names
        [python, "-c", code, *request["packages"]], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )  # fmt: skip
    try:
        said = dict(json.loads(done.stdout.decode().strip().splitlines()[-1]))
        # The interpreter as it was named, and not sys.executable: it may be a script that sets something first.
        return {**said, "path": shutil.which(python) or python}
    except (ValueError, IndexError):
        raise Refused(f"{python} is no Python: {words(done.stderr)}") from None


def facts(request: dict[str, Any]) -> dict[str, Any]:
    """Describe the machine."""
    system = dict(re.findall(r'^(\w+)="?(.*?)"?$', text("/etc/os-release"), re.MULTILINE))
    release = re.search(r"R(\d+).*?REVISION: *([\d.]+)", text("/etc/nv_tegra_release"))
    root = root_of(request)
    while not root.exists():
        root = root.parent
    return {
        "arch": platform.machine(),
        "os": system.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "model": text("/proc/device-tree/model").strip("\0 \n"),
        "l4t": f"{release.group(1)}.{release.group(2)}" if release else "",
        "jetpack": ask("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack"),
        "libnvinfer": ask("dpkg-query", "-W", "-f=${Version}", "libnvinfer-bin"),
        "gpu": ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").replace("\n", "; "),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
        "free_mb": round(shutil.disk_usage(root).free / 1e6),
        "python3": platform.python_version(),
        "rsync": bool(shutil.which("rsync")),
        **sensors(),
    }


def sensors() -> dict[str, Any]:
    """Return what says how fast the machine runs now: temperatures in degrees C, clocks in MHz, the power mode of a Jetson."""
    found: dict[str, Any] = {"temperatures_c": {}, "cpu_mhz": [], "power_mode": ""}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        with suppress(OSError, ValueError):
            found["temperatures_c"][text(str(zone / "type")).strip()] = int(text(str(zone / "temp"))) / 1000
    for policy in sorted(Path("/sys/devices/system/cpu/cpufreq").glob("policy*")):
        with suppress(OSError, ValueError):
            found["cpu_mhz"].append(round(int(text(str(policy / "scaling_cur_freq"))) / 1000))
    mode = re.search(r"NV Power Mode: *(\S+)", ask("nvpmodel", "-q"))
    found["power_mode"] = mode.group(1) if mode else ""
    return found


def text(path: str) -> str:
    """Return a text file's content, "" where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def ask(*command: str) -> str:
    """Return what a program says, "" where it is not there or fails."""
    try:
        environment = {**os.environ, "PATH": PATH}
        done = subprocess.run(  # noqa: S603 -- our own words
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return words(done.stdout) if done.returncode == 0 else ""


def words(data: bytes) -> str:
    """Return what a program said, as short text."""
    return data.decode("utf-8", "replace").strip()[-600:]
