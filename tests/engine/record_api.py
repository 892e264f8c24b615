"""Records which names TensorRT's Python API has, from the sources of its bindings: ``python tests/engine/record_api.py REPOSITORY TAG``.

REPOSITORY is a clone of https://github.com/NVIDIA/TensorRT (a bare one will do). Writes ``api/tensorrt-<version>.json``: class ->
methods and properties, enumeration -> values. Needs git, and no TensorRT.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("python/src/infer/pyCore.cpp", "python/src/infer/pyGraph.cpp", "python/src/infer/pyFoundationalTypes.cpp",
           "python/src/infer/pyPlugin.cpp", "python/src/infer/pyInt8.cpp", "python/src/parsers/pyOnnx.cpp")  # fmt: skip
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "DeviceType", "EngineInspector", "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext",
    "IHostMemory", "ILayer", "INetworkDefinition", "IOptimizationProfile", "IPluginRegistry", "IProgressMonitor", "ITensor",
    "ITimingCache", "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "OnnxParserRefitter", "ParserError", "ProfilingVerbosity", "Refitter", "Runtime",
    "TensorIOMode", "ComputeCapability", "IInt8EntropyCalibrator2",
)  # fmt: skip
"""What the builder and the session touch, and what it must not miss when it goes."""

START = re.compile(r'py::(?:class_|enum_)<.*?>\s*\(\s*\w+,\s*"(\w+)"', re.DOTALL)
MEMBER = re.compile(
    r'\.(?:def|def_property|def_property_readonly|def_readonly|def_readwrite|def_static|value)\(\s*"(\w+)"'
)


def names(text: str) -> dict[str, set[str]]:
    """Return class or enumeration -> members of one source file."""
    found: dict[str, set[str]] = {}
    starts = list(START.finditer(text))
    for start, after in zip(starts, [*starts[1:], None], strict=False):
        body = text[start.end() : after.start() if after else len(text)]
        found.setdefault(start[1], set()).update(MEMBER.findall(body))
    return found


def main(repository: str, tag: str) -> None:
    """Write the names at a tag."""
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        shown = subprocess.run(
            ["git", "-C", repository, "show", f"{tag}:{source}"], capture_output=True, text=True, check=False
        )
        for name, members in names(shown.stdout).items():
            found.setdefault(name, set()).update(members)
    record = {name: sorted(found[name]) for name in CLASSES if name in found}
    version = ".".join((tag.removeprefix("v") + ".0").split(".")[:3])
    path = HERE / "api" / f"tensorrt-{version}.json"
    path.write_text(json.dumps({"source": f"NVIDIA/TensorRT {tag}", "names": record}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
