"""The C++ programs of the tests: what building them needs, and how to ask them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["CppError", "Probe", "missing", "openvino_cmake"]

QUIET = {
    "ASAN_OPTIONS": "detect_leaks=0",  # OpenVINO keeps what it needs until the process ends
    "TBB_ENABLE_SANITIZERS": "1",  # oneTBB then loads its libraries in a way that the address sanitizer can follow
}


def missing() -> str:
    """Say what cannot be built here, "" when all can."""
    tools = [name for name in ("cmake", "g++") if shutil.which(name) is None]
    headers = {"nlohmann/json.hpp": "nlohmann-json3-dev", "zlib.h": "zlib1g-dev"}
    places = (Path("/usr/include"), Path("/usr/local/include"))
    tools += [package for file, package in headers.items() if not any((place / file).is_file() for place in places)]
    return ", ".join(tools)


def openvino_cmake() -> str:
    """Return the folder of OpenVINO's CMake files, "" without its wheel; OpenVINO is not imported."""
    spec = find_spec("openvino")
    folder = Path(spec.origin).parent / "cmake" if spec and spec.origin else None
    return str(folder) if folder and folder.is_dir() else ""


class CppError(Exception):
    """What the C++ runtime threw: its kind and message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Probe:
    """The program of probe.cpp: a question a line, an answer a line. It is started anew should a sanitizer end it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, what: str, **question: Any) -> Any:
        """Ask. Raises CppError for an error of ours, AssertionError where the program died."""
        if self.process is None:
            self.process = subprocess.Popen(
                [self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | QUIET
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **question}, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code, self.process = self.process.wait(60), None
            raise AssertionError(f"the program died with {code} of {what} {question}")
        answer = json.loads(line)
        if "error" in answer:
            raise CppError(answer["error"], answer["message"])
        return answer["answer"]

    def close(self) -> None:
        """End the program. Raises AssertionError where it ended badly."""
        if self.process is not None:
            self.process.communicate(timeout=60)
            assert self.process.returncode == 0
