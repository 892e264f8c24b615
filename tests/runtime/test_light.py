"""An application embeds the runtime without PyTorch, onnx or the command line's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image
from tiny_bundle import photos

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxsim",
    "click",
    "rich",
    "skimage",
    "safetensors",
    "scipy",
)


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_takes_numpy_alone() -> None:
    code = """
import sys
import edgecnn.runtime
own = {"numpy", "edgecnn"}
found = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - own
print(sorted(name for name in found if not name.startswith(("_", "sitecustomize", "usercustomize"))))
"""
    assert python(code).strip() == "[]"


def test_works_with_everything_else_absent(tiny: Path, tmp_path: Path) -> None:
    Image.fromarray(photos()[0]).save(tmp_path / "a.png")
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from edgecnn.runtime import Bundle, Classifier, HotClassifier, Service, load, selftest
import asyncio
import numpy as np
bundle = Bundle.open(sys.argv[1])
with Classifier(sys.argv[1]) as classify:
    print(classify(sys.argv[2])[0].index)
with Service(HotClassifier(sys.argv[1])) as service:
    print(asyncio.run(service(sys.argv[2]))[0].index)
with load(sys.argv[1], "fp32") as session:
    print(session.run({{"input": np.zeros((1, 3, 32, 32), np.float32)}})["logits"].shape)
print(bool(selftest(bundle)), bundle.labels[0])
"""
    from edgecnn.runtime import Classifier

    with Classifier(tiny) as classify:
        best = classify(photos()[0])[0].index
    assert python(code, str(tiny), str(tmp_path / "a.png")).split() == [
        str(best),
        str(best),
        "(1,",
        "5)",
        "True",
        "tench",
    ]


def test_absent_backend_and_pillow_name_the_line_that_installs_them(tiny: Path) -> None:
    code = """
import sys
sys.modules["onnxruntime"] = None
sys.modules["openvino"] = None
sys.modules["PIL"] = None
from edgecnn.errors import MissingDependencyError
from edgecnn.runtime import Bundle, load
from edgecnn.runtime.preprocess import decode
bundle = Bundle.open(sys.argv[1])
for call in (lambda: load(sys.argv[1]), lambda: load(sys.argv[1], backend="openvino"), lambda: decode("a.png")):
    try:
        call()
    except MissingDependencyError as error:
        print(error)
"""
    lines = python(code, str(tiny)).splitlines()
    assert len(lines) == 3
    assert "pip install 'edgecnn[cpu]'" in lines[0]
    assert "pip install 'edgecnn[openvino]'" in lines[1]
    assert "pip install Pillow" in lines[2]


def test_preprocessed_input_needs_no_pillow(tiny: Path) -> None:
    code = """
import sys
sys.modules["PIL"] = None
from edgecnn.runtime import load
import numpy as np
with load(sys.argv[1]) as session:
    print(session.run({"input": np.ones((2, 3, 32, 32), np.float32)})["logits"].dtype)
"""
    assert python(code, str(tiny)).strip() == "float32"
