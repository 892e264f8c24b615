"""The map of docs/ARCHITECTURE.md, proven on the syntax tree: imports go downward only, third-party packages stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest line first. A module may import its own package and any line below its own.
LAYERS = (
    ("errors", "progress", "optional", "spec", "_version"),
    ("writing",),
    ("artifacts",),
    ("runtime", "onnxio"),
    ("models", "calib", "weights", "native", "wheel"),
    ("zoo", "export", "simplify", "passes", "quantize", "fp16", "engine"),
    (
        "report",
        "remote",
        "pack",
        "package",
        "bench",
        "parity",
        "analysis",
        "comparison",
        "inspection",
        "doctor",
        "testing",
    ),
    ("pipeline",),
    ("scale",),
    ("cli",),
    ("__main__",),
)
# On one line, but one step above the other: listed by hand, with the reason.
ALLOWED_SIBLINGS = {
    ("optional", "errors"),  # the whole tree raises from errors
    ("spec", "errors"),
    ("simplify", "passes"),  # simplify runs the passes
    ("quantize", "passes"),  # equalization is a pass whose scales the quantizer chooses
    ("engine", "passes"),  # the names of the plugin's nodes
    ("testing", "parity"),  # assert_parity is parity for pytest
    ("analysis", "parity"),  # it reads tensors and runs steps as bisecting does
    ("comparison", "bench"),  # it measures
    ("comparison", "parity"),  # and evaluates
    ("report", "analysis"),  # a page shows what was found
    ("report", "bench"),  # likewise
    ("remote", "pack"),  # what a device made goes into the bundle
    ("report", "comparison"),
    ("report", "parity"),
    ("report", "remote"),
    ("report", "bench"),
}

ROOMS = {
    "torch": ("models/", "edgecnn/weights.py", "edgecnn/export", "edgecnn/parity/torch_runner.py"),
    "onnx": (
        "edgecnn/onnxio.py",
        "edgecnn/export",
        "edgecnn/simplify.py",
        "edgecnn/passes/",
        "edgecnn/quantize/",
        "edgecnn/fp16",
        "edgecnn/parity/steps.py",
        "edgecnn/analysis/noise.py",
        "calib/collect.py",
    ),
    "onnxruntime": ("edgecnn/runtime/ort.py",),
    "openvino": ("edgecnn/runtime/openvino.py",),
    "tensorrt": ("edgecnn/engine/", "edgecnn/runtime/tensorrt.py", "edgecnn/runtime/trt_api.py"),
    "click": ("edgecnn/cli/",),
    "rich": ("edgecnn/cli/",),
    "joblib": ("edgecnn/scale/executor.py",),
    "pyarrow": ("edgecnn/scale/table.py",),
    "PIL": ("edgecnn/runtime/preprocess.py", "edgecnn/report/raster.py"),
}
SAME_ROOM = {"onnx_ir": "onnx", "onnxscript": "onnx", "onnxsim": "onnx", "tensorrt_rtx": "tensorrt", "cuda": "tensorrt",
             "ray": "joblib", "distributed": "joblib", "dask": "joblib"}  # fmt: skip


def sources() -> Iterator[tuple[Path, str]]:
    """Yield every source file with its module name inside edgecnn, dots between parts ("" for the package itself)."""
    for folder, prefix in (("edgecnn", ""), ("models", "models"), ("calib", "calib")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [prefix] if prefix else []
            parts += [part for part in path.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__"]
            yield path, ".".join(parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (absolute module, line) of every import in a file, those inside functions and type-checking blocks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield (f"{node.module}.{alias.name}" if node.module == "edgecnn" else node.module), node.lineno


def level(name: str) -> int:
    """Return the line of LAYERS that a top-level module stands on."""
    for index, names in enumerate(LAYERS):
        if name in names or any(name.startswith(f"{known}_") for known in names):
            return index
    raise AssertionError(f"edgecnn.{name} stands on no line of the map: add it to LAYERS and to docs/ARCHITECTURE.md")


def root_of(name: str) -> str:
    """Return ``export`` for ``export_deform``: a module split over files stays one module on the map."""
    for names in LAYERS:
        for known in names:
            if name == known or (name.startswith(f"{known}_") and known != "_version"):
                return known
    return name


def test_imports_go_downward_only() -> None:
    wrong = []
    for path, module in sources():
        if not module:
            continue
        own = root_of(module.partition(".")[0])
        for target, line in imports(path):
            if not target.startswith("edgecnn."):
                continue
            other = root_of(target.split(".")[1])
            if other in (own, "__version__") or (own, other) in ALLOWED_SIBLINGS:
                continue
            if level(other) >= level(own):
                wrong.append(
                    f"{path.relative_to(ROOT)}:{line}: {own} (line {level(own)}) imports {other} (line {level(other)})"
                )
    assert not wrong, "\n".join(wrong)


def test_only_the_zoo_imports_the_model_definitions() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, module in sources()
        if module.split(".")[0] not in ("models", "zoo")
        for target, line in imports(path)
        if target.startswith("edgecnn.models")
        and not (module.startswith("export") and target == "edgecnn.models.deformable")
    ]
    assert not wrong, "edgecnn.zoo is the only importer of edgecnn.models: " + ", ".join(wrong)


def test_third_party_packages_stay_in_their_rooms() -> None:
    wrong = []
    for path, _ in sources():
        relative = path.relative_to(ROOT).as_posix()
        for target, line in imports(path):
            package = target.partition(".")[0]
            rooms = ROOMS.get(SAME_ROOM.get(package, package))
            if rooms is not None and not relative.startswith(rooms) and not in_type_checking(path, line):
                wrong.append(f"{relative}:{line} imports {package}; allowed in {', '.join(rooms)}")
    assert not wrong, "\n".join(wrong)


def in_type_checking(path: Path, line: int) -> bool:
    """Whether a line stands in an ``if TYPE_CHECKING`` block, which imports nothing at run time."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            assert node.end_lineno is not None
            if node.lineno <= line <= node.end_lineno:
                return True
    return False


def test_files_and_functions_keep_to_the_house_measure() -> None:
    wrong = []
    for path, _ in sources():
        text = path.read_text(encoding="utf-8")
        relative = path.relative_to(ROOT)
        if text.count("\n") > 500:
            wrong.append(f"{relative}: {text.count(chr(10))} lines, over 500")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                count = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
                count -= bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
                if length > 60:
                    wrong.append(f"{relative}:{node.lineno} {node.name}: {length} lines, over 60")
                if count > 8 and not relative.as_posix().startswith("edgecnn/cli/"):
                    wrong.append(f"{relative}:{node.lineno} {node.name}: {count} parameters, over 8")
    assert not wrong, "\n".join(wrong)


def test_the_library_never_prints_and_never_exits() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}"
        for path, module in sources()
        if not module.startswith(("cli", "__main__"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "exit", "quit", "input")
    ]
    assert not wrong, "\n".join(wrong)


HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "skimage",
    "scipy",
    "safetensors",
    "joblib",
    "ray",
    "distributed",
    "pyarrow",
)


def run_blocked(code: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which the blocked packages cannot be imported."""
    block = f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "module",
    ["edgecnn", "edgecnn.zoo", "edgecnn.export", "edgecnn.quantize", "edgecnn.calib", "edgecnn.models",
     "edgecnn.parity", "edgecnn.bench", "edgecnn.analysis", "edgecnn.report", "edgecnn.comparison", "edgecnn.engine",
     "edgecnn.pipeline.engines",
     "edgecnn.engine.plugins.deform_conv2d", "edgecnn.native.build",
     "edgecnn.scale", "edgecnn.scale.run", "edgecnn.scale.sweep", "edgecnn.scale.executor",
     "edgecnn.pipeline", "edgecnn.remote.fleet", "edgecnn.remote.probe", "edgecnn.pack",
     "edgecnn.inspection", "edgecnn.doctor", "edgecnn.testing", "edgecnn.cli"],
)  # fmt: skip
def test_front_modules_import_without_the_heavy_packages(module: str) -> None:
    done = run_blocked(f"import {module}", HEAVY)
    assert done.returncode == 0, done.stderr


def test_the_runtime_imports_numpy_and_the_standard_library_alone() -> None:
    done = run_blocked(
        "import edgecnn.runtime\n"
        "print(sorted({n.partition('.')[0] for n, m in sys.modules.items() if m is not None} - sys.stdlib_module_names))",
        (*HEAVY, "click", "rich", "PIL"),
    )
    assert done.returncode == 0, done.stderr
    third_party = {name for name in ast.literal_eval(done.stdout) if not name.startswith(("_", "sitecustomize", "__"))}
    assert third_party <= {"numpy", "edgecnn"}, third_party
