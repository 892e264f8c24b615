"""nvcc and TensorRT's headers: where they are, which versions, and what went wrong in words."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import MissingDependencyError, SpecError, ToolError

__all__ = ["OLDEST", "Headers", "Nvcc", "find_headers", "find_nvcc"]

OLDEST = 75
"""Compute capability times ten of the oldest GPU that the kernels are for (Turing; the oldest of TensorRT 10 and 11)."""

_SECONDS = 900.0  # nine architectures take about 10 s on a desktop, minutes on a Jetson Nano
_HEADER = "NvInferRuntime.h"


@dataclass(frozen=True, kw_only=True)
class Nvcc:
    """NVIDIA's compiler. Make one with :func:`find_nvcc`.

    Attributes:
        path: the program.
        version: ``13.0``.
        architectures: the plain ones it compiles for from :data:`OLDEST` on, ascending, such as ``(75, 80, 86)``.
    """

    path: Path
    version: str
    architectures: tuple[int, ...]

    def choose(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the architectures that ``names`` ask for (``sm_87`` or ``87``), all when there are none.

        Raises:
            SpecError: one that this nvcc does not compile for, or that the kernels are not for.
        """
        chosen = []
        for name in names:
            digits = name.removeprefix("sm_")
            if not digits.isdecimal() or int(digits) not in self.architectures:
                known = ", ".join(f"sm_{number}" for number in self.architectures)
                raise SpecError(f"--arch {name}: nvcc {self.version} ({self.path}) compiles the plugin for {known}")
            chosen.append(int(digits))
        return tuple(sorted(set(chosen))) or self.architectures

    def run(self, *arguments: str | Path) -> None:
        """Compile.

        Raises:
            ToolError: nvcc failed, with its first errors; or it took longer than 15 minutes.
        """
        command = [str(self.path), *map(str, arguments)]
        try:
            done = subprocess.run(  # noqa: S603 -- nvcc, as find_nvcc found it
                command, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace"
            )
        except OSError as error:
            raise ToolError(f"cannot run {self.path}: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{self.path} took longer than {_SECONDS:.0f} s: name fewer GPUs with --arch") from error
        if done.returncode:
            raise ToolError(
                f"{self.path} failed (exit code {done.returncode}): {_first_errors(done.stderr + done.stdout)}"
            )


@dataclass(frozen=True, kw_only=True)
class Headers:
    """TensorRT's headers. Make one with :func:`find_headers`.

    Attributes:
        path: the folder that holds NvInferRuntime.h.
        version: (major, minor).
    """

    path: Path
    version: tuple[int, int]

    @property
    def standard(self) -> int:
        """The C++ standard to compile plugins with: 20 from TensorRT 11.5 on (its release notes), 17 before."""
        return 20 if self.version >= (11, 5) else 17


def find_nvcc() -> Nvcc:
    """Return nvcc: of ``CUDA_HOME`` or ``CUDA_PATH`` where one is set, else on the PATH, else in /usr/local/cuda.

    Raises:
        MissingDependencyError: there is none.
        ToolError: it does not say what it is.
    """
    named = [Path(folder) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if (folder := os.environ.get(key))]
    places = os.pathsep.join(str(place) for place in named) or os.environ.get("PATH", "")
    found = shutil.which("nvcc", path=places) or (None if named else shutil.which("nvcc", path="/usr/local/cuda/bin"))
    if found is None:
        where = f"in {' or '.join(map(str, named))}" if named else "on the PATH and in /usr/local/cuda/bin"
        raise MissingDependencyError(
            f"compiling the plugin needs nvcc, which is not {where}: install the CUDA toolkit (on a Jetson: "
            "sudo apt install nvidia-cuda), or set CUDA_HOME to its folder"
        )
    path = Path(found)
    version = re.search(r"release (\d+\.\d+)", _ask(path, "--version"))
    codes = re.findall(r"^sm_(\d+)$", _ask(path, "--list-gpu-code"), re.MULTILINE)
    architectures = tuple(sorted({int(code) for code in codes if int(code) >= OLDEST}))
    if version is None or not architectures:
        raise ToolError(f"{path} does not name its version and a GPU from sm_{OLDEST} on: is it nvcc 11.8 or newer?")
    return Nvcc(path=path, version=version[1], architectures=architectures)


def find_headers(root: Path | None = None) -> Headers:
    """Return TensorRT's headers below ``root``, else below ``EDGECNN_TENSORRT_ROOT``, else where Debian packages put them.

    Raises:
        MissingDependencyError: there are none.
        SpecError: they are older than TensorRT 10 or do not say their version.
    """
    named = root or (Path(os.environ["EDGECNN_TENSORRT_ROOT"]) if os.environ.get("EDGECNN_TENSORRT_ROOT") else None)
    bases = [named] if named else [Path("/usr"), Path("/usr/local"), Path("/usr/local/tensorrt")]
    multiarch = f"{platform.machine()}-linux-gnu"
    places = [base / part for base in bases for part in ("include", f"include/{multiarch}", ".")]
    path = next((place for place in places if (place / _HEADER).is_file()), None)
    if path is None:
        raise MissingDependencyError(
            f"compiling the plugin needs TensorRT's headers, and {_HEADER} is not in {', '.join(map(str, places))}: give "
            "--tensorrt-root the folder of a TensorRT archive, or install them (sudo apt install libnvinfer-headers-dev); "
            "the pip package tensorrt has no headers"
        )
    version = _version_of(path / "NvInferVersion.h")
    if version < (10, 0):
        raise SpecError(f"the plugin needs TensorRT 10 or newer, found {version[0]}.{version[1]} in {path}")
    return Headers(path=path.resolve(), version=version)


def _version_of(header: Path) -> tuple[int, int]:
    """Read (major, minor) from NvInferVersion.h, whose macros have had two names."""
    try:
        text = header.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SpecError(f"cannot read TensorRT's version from {header}: {error.strerror or error}") from error
    numbers = []
    for part in ("MAJOR", "MINOR"):
        found = re.search(rf"#define\s+(?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE)\s+(\d+)", text)
        if found is None:
            raise SpecError(f"{header} does not define NV_TENSORRT_{part}: it is not TensorRT's")
        numbers.append(int(found[1]))
    return numbers[0], numbers[1]


def _ask(path: Path, question: str) -> str:
    """Return what nvcc answers. Raises ToolError."""
    try:
        done = subprocess.run([path, question], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 -- nvcc
        return done.stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"{path} {question} failed: {error}") from error


def _first_errors(text: str, most: int = 3) -> str:
    """Return the first lines that name an error, else the last line there is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"\b(error|fatal)\b|undefined reference", line, re.IGNORECASE)]
    return "; ".join(named[:most] or lines[-1:] or ["it said nothing"])
