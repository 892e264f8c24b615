"""``edgecnn plugin build``, with a shell script in nvcc's place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cli_tools import Cli

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 12.6, V12.6.85";;
--list-gpu-code) printf 'sm_75\\nsm_87\\n';;
*) for last; do :; done; echo library > "$last";;
esac
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the script and TensorRT's version; return the latter's folder."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("EDGECNN_TENSORRT_ROOT", raising=False)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferRuntime.h").touch()
    version = "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3\n"
    (tmp_path / "include" / "NvInferVersion.h").write_text(version)
    return tmp_path


def test_it_says_what_it_compiled_for(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    result = cli("plugin", "build", "--tensorrt-root", root)
    assert (result.code, result.err) == (0, "")
    assert result.out == "libedgecnn_plugin.so: for TensorRT 10.3, sm_75, sm_87; compiled with nvcc 12.6\n"
    assert (root / "libedgecnn_plugin.so").read_text() == "library\n"


def test_json(cli: Cli, root: Path) -> None:
    result = cli("plugin", "build", "--tensorrt-root", root, "--arch", "sm_87", "-o", root / "x.so", "--json")
    assert result.code == 0
    assert json.loads(result.out) == {
        "out": str(root / "x.so"),
        "sha256": hashlib.sha256(b"library\n").hexdigest(),
        "tensorrt": "10.3",
        "nvcc": "12.6",
        "architectures": ["sm_87"],
        "standard": 17,
    }


def test_failures_are_one_line_and_leave_nothing(cli: Cli, root: Path) -> None:
    result = cli("plugin", "build", "--tensorrt-root", root / "none", "-o", root / "x.so", "--json")
    assert result.code == 1
    assert json.loads(result.out)["error"]["type"] == "MissingDependencyError"
    assert result.err.startswith("error: compiling the plugin needs TensorRT's headers")
    assert result.err.count("\n") == 1
    result = cli("plugin", "build", "--tensorrt-root", root, "--arch", "sm_70", "-o", root / "x.so")
    assert result.code == 1
    assert "compiles the plugin for sm_75, sm_87" in result.err
    assert not (root / "x.so").exists()
    assert cli("plugin", "install").code == 2
