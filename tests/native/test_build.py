"""Compiling the plugin: with nvcc where there is one, against TensorRT's headers where they are, and every way it can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgecnn.errors import MissingDependencyError, OutputError, SpecError, ToolError
from edgecnn.native import SOURCES
from edgecnn.native.build import KERNELS, PluginBuild, build_plugin, compile_ptx
from edgecnn.native.toolchain import find_headers, find_nvcc

HERE = Path(__file__).parent
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
TENSORRT = os.environ.get("EDGECNN_TENSORRT_ROOT")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
needs_tensorrt = pytest.mark.skipif(not TENSORRT, reason="EDGECNN_TENSORRT_ROOT names no TensorRT headers")

FAKE_NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 12.6, V12.6.85";;
--list-gpu-code) printf 'sm_50\\nsm_75\\nsm_87\\nsm_90\\nsm_90a\\n';;
*) {compile};;
esac
"""
WRITES = 'for last; do :; done; echo "$@" > "$last"'


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a shell script in nvcc's place; it writes its arguments into the output, or does as told."""

    def install(compile_: str = WRITES) -> Path:
        path = tmp_path / "cuda" / "bin" / "nvcc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_NVCC.format(compile=compile_))
        path.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        monkeypatch.delenv("CUDA_PATH", raising=False)
        return path

    return install


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes TensorRT's headers, their versions alone."""
    monkeypatch.delenv("EDGECNN_TENSORRT_ROOT", raising=False)

    def write(text: str = "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3 //!< minor\n") -> Path:
        root = tmp_path / "TensorRT"
        (root / "include").mkdir(parents=True, exist_ok=True)
        (root / "include" / "NvInferRuntime.h").touch()
        (root / "include" / "NvInferVersion.h").write_text(text)
        return root

    return write


def test_the_command_line_of_nvcc(nvcc, headers, tmp_path):
    nvcc()
    root, out = headers(), tmp_path / "plugin.so"
    built = build_plugin(PluginBuild(out=out, tensorrt_root=root, architectures=("sm_87", "75")))
    assert (built.tensorrt, built.nvcc, built.standard) == ("10.3", "12.6", 17)
    assert built.architectures == ("sm_75", "sm_87")
    words = out.read_text().split()
    assert {"-shared", "-std=c++17", str(SOURCES / "plugin.cpp"), str(SOURCES / "deform_conv2d.cu")} <= set(words)
    assert [word for word in words if "gencode" in word] == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_87,code=sm_87",
        "-gencode=arch=compute_87,code=compute_87",
    ]
    assert words[words.index("-isystem") + 1] == str(root / "include")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TensorRT", "cuda", "plugin.so"]


def test_without_architectures_it_is_for_all_from_turing_on(nvcc, headers, tmp_path):
    nvcc()
    built = build_plugin(PluginBuild(out=tmp_path / "plugin.so", tensorrt_root=headers()))
    assert built.architectures == ("sm_75", "sm_87", "sm_90")


@pytest.mark.parametrize(
    ("version", "standard"),
    [("10 0", 17), ("11 4", 17), ("11 5", 20), ("12 0", 20)],
)
def test_the_standard_follows_tensorrt(headers, version, standard):
    major, minor = version.split()
    text = f"#define TRT_MAJOR_ENTERPRISE {major}\n#define TRT_MINOR_ENTERPRISE {minor}\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n"
    found = find_headers(headers(text))
    assert (found.version, found.standard) == ((int(major), int(minor)), standard)


def test_headers_are_found_by_the_environment_and_in_a_multiarch_folder(headers, monkeypatch):
    root = headers()
    monkeypatch.setenv("EDGECNN_TENSORRT_ROOT", str(root))
    assert find_headers().path == root / "include"
    multiarch = root / "include" / f"{os.uname().machine}-linux-gnu"
    multiarch.mkdir()
    for name in ("NvInferRuntime.h", "NvInferVersion.h"):
        (root / "include" / name).rename(multiarch / name)
    assert find_headers().path == multiarch


def test_no_nvcc(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=rf"needs nvcc, which is not in {tmp_path}/bin: install the CUDA"):
        find_nvcc()


def test_no_headers(nvcc, headers, tmp_path):
    nvcc()
    with pytest.raises(MissingDependencyError, match=r"NvInferRuntime\.h is not in .*empty/include.*--tensorrt-root"):
        build_plugin(PluginBuild(out=tmp_path / "plugin.so", tensorrt_root=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n", r"needs TensorRT 10 or newer, found 8\.6 in"),
        ("nothing\n", "does not define NV_TENSORRT_MAJOR"),
    ],
)
def test_headers_that_cannot_be_used(headers, text, message):
    with pytest.raises(SpecError, match=message):
        find_headers(headers(text))


def test_an_architecture_that_nvcc_does_not_know(nvcc, headers, tmp_path):
    nvcc()
    for name in ("sm_50", "sm_90a", "120", "native"):
        with pytest.raises(SpecError, match=rf"--arch {name}: nvcc 12\.6 .* for sm_75, sm_87, sm_90$"):
            build_plugin(PluginBuild(out=tmp_path / "plugin.so", tensorrt_root=headers(), architectures=(name,)))


def test_a_failed_compilation_names_its_first_errors_and_leaves_the_old_file(nvcc, headers, tmp_path):
    nvcc("echo 'note: x' >&2; for i in 1 2 3 4; do echo \"a.cu($i): error: no $i\" >&2; done; exit 2")
    out = tmp_path / "plugin.so"
    out.write_text("old")
    with pytest.raises(ToolError, match=r"exit code 2\): a\.cu\(1\): error: no 1; .*no 2; .*no 3$"):
        build_plugin(PluginBuild(out=out, tensorrt_root=headers(), force=True))
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TensorRT", "cuda", "plugin.so"]


def test_something_that_is_not_nvcc(nvcc):
    path = nvcc()
    path.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(ToolError, match="does not name its version and a GPU"):
        find_nvcc()
    path.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ToolError, match="nvcc --version failed"):
        find_nvcc()


def test_the_output_is_checked_before_compiling(nvcc, headers, tmp_path):
    nvcc("exit 9")
    (tmp_path / "plugin.so").touch()
    with pytest.raises(OutputError, match="exists already: choose another file, or replace it with --force"):
        build_plugin(PluginBuild(out=tmp_path / "plugin.so", tensorrt_root=headers()))
    with pytest.raises(OutputError, match="is not a folder"):
        build_plugin(PluginBuild(out=tmp_path / "none" / "plugin.so", tensorrt_root=headers()))


@needs_nvcc
def test_the_kernels_compile_for_gpus_from_turing_to_blackwell(tmp_path):
    """Some of each generation that this nvcc knows; warnings are errors, and nothing may outgrow 48 KiB of shared memory."""
    compiler = find_nvcc()
    chosen = [number for number in (75, 80, 87, 90, 120) if number in compiler.architectures]
    assert len(chosen) >= 4
    compiler.run(
        *("-c", "-std=c++17", "-O3", "--threads", "0", "-Werror", "all-warnings"),
        *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen),
        *(SOURCES / "deform_conv2d.cu", "-o", tmp_path / "kernels.o"),
    )


@needs_nvcc
def test_ptx_has_the_kernels_with_their_arguments():
    ptx = compile_ptx("sm_80")
    assert ".target sm_80" in ptx
    for (mask, _), name in KERNELS.items():
        (parameters,) = re.findall(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
        kinds = re.findall(r"\.param \.(\w+)", parameters)
        assert kinds == ["u64"] * (5 if mask else 4) + ["u32"] * 17 + ["u64"]


@needs_nvcc
def test_a_real_compiler_error_is_quoted(headers, tmp_path):
    with pytest.raises(ToolError, match=r"plugin\.hpp.*error"):
        build_plugin(PluginBuild(out=tmp_path / "plugin.so", tensorrt_root=headers(), architectures=("sm_80",)))


def plays_tensorrt(library: Path, folder: Path) -> None:
    """Let a small program play TensorRT's part towards the library: all that happens without a GPU."""
    found = find_headers()
    cuda = find_nvcc().path.resolve().parent.parent / "include"
    includes = ("-isystem", str(found.path), "-isystem", str(cuda), "-isystem", "/usr/local/cuda/include")
    program = folder / "host"
    command = ["g++", f"-std=c++{found.standard}", *includes, str(HERE / "plugin_host.cpp"), "-ldl", "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    done = subprocess.run([program, library], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == (HERE / "plugin_host.txt").read_text()


@needs_nvcc
@needs_tensorrt
def test_the_library_answers_what_tensorrt_asks(tmp_path):
    built = build_plugin(PluginBuild(out=tmp_path / "plugin.so", architectures=("sm_80",)))
    plays_tensorrt(built.path, tmp_path)


@needs_nvcc
@needs_tensorrt
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_cmake_makes_the_same_library(tmp_path):
    folder = tmp_path / "build"
    command = ["cmake", "-S", str(SOURCES), "-B", str(folder), "-DCMAKE_CUDA_ARCHITECTURES=80"]
    subprocess.run([*command, f"-DCMAKE_CUDA_COMPILER={NVCC}"], check=True, capture_output=True, timeout=120)
    subprocess.run(["cmake", "--build", str(folder)], check=True, capture_output=True, timeout=300)
    plays_tensorrt(folder / "libedgecnn_plugin.so", tmp_path)
