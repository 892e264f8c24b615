"""How a project gets the runtime: CMake's package in pip's folder and installed, and TensorRT's session, which is compiled alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cpp_tools import CppError, Probe, missing, openvino_cmake
from tiny_bundle import edit_manifest

from edgecnn.native import CMAKE, EXAMPLE, INCLUDE

ROOT = Path(__file__).parents[2]
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(app LANGUAGES CXX)
find_package(edgecnn {version} REQUIRED {components})
get_target_property(folder edgecnn::edgecnn INTERFACE_INCLUDE_DIRECTORIES)
message(STATUS "headers: ${{folder}}, ${{edgecnn_VERSION}}")
add_library(app OBJECT app.cpp)
target_link_libraries(app PRIVATE edgecnn::edgecnn)
"""

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")


def cmake(*arguments: object, fails: bool = False) -> str:
    """Run CMake and return what it says."""
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def compiled(source: Path, *flags: object) -> None:
    """Compile with warnings as errors; nothing is written."""
    command = ["g++", "-std=c++17", "-fsyntax-only", *WARNINGS, f"-I{INCLUDE}", *map(str, flags), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def project(folder: Path, version: str = "", components: str = "") -> Path:
    """Write a project that uses the package."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(PROJECT.format(version=version, components=components))
    (folder / "app.cpp").write_text("#include <edgecnn/version.hpp>\nstatic_assert(edgecnn::kSchema == 1);\n")
    return folder


@pytest.mark.parametrize("installed", [False, True])
def test_find_package(tmp_path: Path, installed: bool) -> None:
    place, headers = CMAKE, INCLUDE
    if installed:
        cmake("-S", CMAKE, "-B", tmp_path / "install")
        cmake("--install", tmp_path / "install", "--prefix", tmp_path / "prefix")
        place, headers = tmp_path / "prefix" / "share" / "cmake" / "edgecnn", tmp_path / "prefix" / "include"
        assert {path.name for path in (headers / "edgecnn").iterdir()} == {
            path.name for path in (INCLUDE / "edgecnn").iterdir()
        }
    # An installed package is found through CMAKE_PREFIX_PATH too.
    where = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}" if installed else f"-Dedgecnn_DIR={place}"
    said = cmake("-S", project(tmp_path / "app", "0.1"), "-B", tmp_path / "build", where)
    found = re.search(r"headers: (\S+), 0\.1\.0", said)
    assert found
    assert Path(found[1]).resolve() == headers.resolve()
    cmake("--build", tmp_path / "build")


@pytest.mark.parametrize(
    ("version", "components", "text"),
    [
        ("1.0", "", "requested version"),
        ("", "COMPONENTS TensorRT", "edgecnn's component TensorRT needs what is not here"),
        ("", "COMPONENTS Tensorflow", "edgecnn's component Tensorflow needs"),
    ],
)
def test_what_cannot_be_found(tmp_path: Path, version: str, components: str, text: str) -> None:
    nowhere = f"-DEDGECNN_TENSORRT_LIBRARY={tmp_path}/none-NOTFOUND"
    arguments = (f"-Dedgecnn_DIR={CMAKE}", nowhere, "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON")
    said = cmake("-S", project(tmp_path / "app", version, components), "-B", tmp_path / "build", *arguments, fails=True)
    assert text in " ".join(said.split())


def test_what_the_page_says_compiles(tmp_path: Path) -> None:
    """docs/CPP.md's program, and its CMake lines' targets."""
    if not openvino_cmake():
        pytest.skip("openvino's wheel is not installed")
    text = (ROOT / "docs" / "CPP.md").read_text()
    (code,) = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    include, body = code.split("\n", 1)
    given = "std::uint8_t const* pixels, int width, int height, std::size_t stride"
    (tmp_path / "app.cpp").write_text(
        f"{include}\n#include <iostream>\nvoid app({given});\nvoid app({given}) {{\n{body}}}\n"
    )
    compiled(tmp_path / "app.cpp", "-isystem", Path(openvino_cmake()).parent / "include", "-DEDGECNN_WITH_OPENVINO")
    assert "edgecnn::openvino" in text
    assert (EXAMPLE / "classify.cpp").is_file()


def cuda_headers() -> Path | None:
    """Return the folder of CUDA's headers."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda", *map(str, Path("/usr/local").glob("cuda-*"))]
    places = [Path(home) / "include" for home in homes if home]
    return next((place for place in places if (place / "cuda_runtime_api.h").is_file()), None)


def test_the_session_of_tensorrt_compiles(tmp_path: Path) -> None:
    """Against the public headers: they are not in the wheel of any package."""
    root, cuda = os.environ.get("EDGECNN_TENSORRT_ROOT"), cuda_headers()
    if not root or cuda is None:
        pytest.skip("EDGECNN_TENSORRT_ROOT names no TensorRT headers, or CUDA's are not installed")
    (tmp_path / "app.cpp").write_text(
        "#include <edgecnn/edgecnn.hpp>\n"
        "int main(int, char** words) {\n"
        "    edgecnn::Classifier const classify(words[1]);\n"
        "    return edgecnn::selftest(classify.bundle()).passed() ? 0 : 3;\n"
        "}\n"
    )
    compiled(tmp_path / "app.cpp", "-isystem", Path(root) / "include", "-isystem", cuda, "-DEDGECNN_WITH_TENSORRT")


def test_the_session_of_tensorrt_over_a_stand_in(built: Path, tmp_path: Path) -> None:
    """What it makes of TensorRT's answers: shapes, threads that share two contexts, and errors after which nothing is held."""
    done = subprocess.run([built / "trt_session", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert found["batch"].startswith("UserError: the input has shape [5, 3, 2, 2], outside of what plan was built for")
    assert found["limits"] == "1 to 4"
    assert found["input"] == "input [-1, 3, 2, 2]"
    assert found["output"] == "logits [-1, 2]"
    for name in ("wrong", "overlaps", "allocated by runs", "held"):
        assert found[name] == "0", name
    assert {value for name, value in found.items() if name.endswith(" holds")} == {"0"}
    # The manifest is looked at first: these two plans are damaged, and TensorRT never saw them.
    assert found["version"].startswith(
        "EngineMisfitError: damaged needs TensorRT 10.9.0, and 10.3.0.26 is installed here"
    )
    assert found["device"].startswith(
        "EngineMisfitError: damaged needs a GPU of compute capability 9.0, and this one has 8.7"
    )
    for name, start in {
        "damaged": "BackendError: TensorRT 10.3.0.26 cannot load damaged: Serialization assertion failed: magic tag",
        "gone": "UserError: no plan at",
        "number": "UserError: GPU 1 was asked for, and there are 1",
        "contexts": "UserError: TensorRT: contexts must be at least 1",
        "run": "BackendError: TensorRT failed to run plan: IExecutionContext::enqueueV3: Error Code 1",
        "memory": "BackendError: out of memory: CUDA cannot get device memory",
        "finish": "BackendError: CUDA cannot finish a run: an illegal memory access",
        "driver": "BackendError: there is no NVIDIA GPU with a working driver here",
    }.items():
        assert found[name].startswith(start), found[name]


ENGINE: dict[str, Any] = {
    "file": "parity.json", "variant": "fp32", "flavour": "tensorrt", "version": "10.3.0", "cuda": "12", "driver_cuda": "",
    "compute_capabilities": ["8.7"], "platform": f"linux-{os.uname().machine}", "precision": "fp32",
    "profile": {"input": [[1, 3, 32, 32], [4, 3, 32, 32], [8, 3, 32, 32]]}, "options": {"batch": "1:4:8"}, "model_sha256": "",
    "timing_cache_sha256": "", "seconds": 1.5, "audit": {}, "lineage": [],
}  # fmt: skip


def with_engine(bundle: Path, **changes: Any) -> None:
    """List an engine; what stands in for its file is not looked at."""
    engines = {"fp32.tensorrt": ENGINE | changes}
    edit_manifest(bundle, lambda data: data.update(engines=engines))


def test_a_plan_that_fits(probe: Probe, bundle: Path) -> None:
    with_engine(bundle)
    device = {"bundle": bundle, "engine": "fp32.tensorrt", "version": "10.3.0.26", "capability": "8.7"}
    probe("plan", **device, shape=[8, 3, 32, 32])
    assert probe("choose", bundle=bundle, backend="tensorrt") == ["fp32", "tensorrt"]
    with_engine(bundle, options={"hardware": "ampere+"})
    probe("plan", **(device | {"capability": "12.0"}))
    with_engine(bundle, options={"version_compatible": True})
    probe("plan", **(device | {"version": "10.9.0.34"}), allow_host_code=True)


@pytest.mark.parametrize(
    ("changes", "device", "kind", "text"),
    [
        ({"platform": "linux-riscv64"}, {}, "EngineMisfitError", "was built on linux-riscv64"),
        ({}, {"version": "10.9.0.34"}, "EngineMisfitError", "needs TensorRT 10.3.0, and 10.9.0.34 is installed here"),
        ({"version": ""}, {}, "EngineMisfitError", "needs TensorRT"),
        ({"options": {"version_compatible": True}}, {"version": "11.1.0.1", "allow_host_code": True}, "EngineMisfitError",
         "or a later one of the same major version"),
        ({"options": {"version_compatible": True}}, {"version": "10.9.0.34"}, "UserError", "brings code that runs on the host"),
        ({"options": {"strip_weights": True}}, {}, "UserError", "has no weights"),
        ({}, {"capability": "7.5"}, "EngineMisfitError", "compute capability 8.7, and this one has 7.5"),
        ({}, {"capability": "7.5"}, "EngineMisfitError", "run: edgecnn build BUNDLE --target tensorrt --variant fp32 --batch 1:4:8"),
        ({"options": {"hardware": "ampere+"}}, {"capability": "7.5"}, "EngineMisfitError", "compute capability"),
        ({"options": {"plugins": ["libmine.so"]}}, {}, "UserError", "plugin library libmine.so"),
        ({}, {"plugins": ["/nowhere/libmine.so"]}, "UserError", "no plugin library at"),
        ({}, {"shape": [9, 3, 32, 32]}, "UserError", "outside of what"),
        ({}, {"shape": [8, 3, 32]}, "UserError", "outside of what"),
    ],
)  # fmt: skip
def test_plans_that_do_not_fit(
    probe: Probe, bundle: Path, changes: dict[str, Any], device: dict[str, Any], kind: str, text: str
) -> None:
    """Before TensorRT is given a byte of them."""
    with_engine(bundle, **changes)
    with pytest.raises(CppError) as refused:
        probe("plan", bundle=bundle, engine="fp32.tensorrt", **({"version": "10.3.0.26", "capability": "8.7"} | device))
    assert refused.value.kind == kind
    assert text in str(refused.value)


def test_no_engine(probe: Probe, bundle: Path) -> None:
    with pytest.raises(
        CppError, match="no engine for tensorrt: build one with 'edgecnn build BUNDLE --target tensorrt'"
    ):
        probe("choose", bundle=bundle, backend="tensorrt")
    with_engine(bundle)
    with pytest.raises(CppError, match=r"no engine of int8-cpu for tensorrt; it has fp32\.tensorrt"):
        probe("choose", bundle=bundle, backend="tensorrt", variant="int8-cpu")


def test_the_example_is_a_project_of_its_own(tmp_path: Path) -> None:
    """Configured from where the wheel has it; the build is that of the other tests."""
    if not openvino_cmake():
        pytest.skip("openvino's wheel is not installed")
    copy = shutil.copytree(EXAMPLE, tmp_path / "example")
    said = cmake("-S", copy, "-B", tmp_path / "build", f"-Dedgecnn_DIR={CMAKE}", f"-DOpenVINO_DIR={openvino_cmake()}")
    assert "Generating done" in said
