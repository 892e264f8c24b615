"""A repository in a real Triton server, where there is one.

``EDGECNN_TRITONSERVER`` names a folder with ``bin/tritonserver``, ``backends/python`` and ``python_backend_stubs/<version>``: the wheel of
nvidia-pytriton, unpacked, has it as ``pytriton/tritonserver``. ``EDGECNN_TRITONSERVER_PYTHON`` is the ``bin`` of an environment with what a
container would have: Pillow, onnxruntime, edgecnn, and the numpy for which that server was built (Triton 2.51: below 2).

The wheel brings no onnxruntime backend, so that the network is run by a model of the python backend, which opens the very
``model.onnx`` with onnxruntime; configurations, the ensemble and the preprocessing are the written ones.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import LABELS, photos

from edgecnn.package import TritonConfig, write_triton
from edgecnn.runtime import Bundle, Classifier, OrtOptions

SERVER = os.environ.get("EDGECNN_TRITONSERVER", "")
PYTHON = os.environ.get("EDGECNN_TRITONSERVER_PYTHON", str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(not SERVER, reason="EDGECNN_TRITONSERVER is not set: see this file")

NETWORK = """
from pathlib import Path
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.session = onnxruntime.InferenceSession(Path(args["model_repository"]) / args["model_version"] / "model.onnx")

    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "input").as_numpy()) for request in requests]

    def answer(self, x):
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", self.session.run(None, {"input": x})[0])])
"""


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(models: Path, folder: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start the server on a repository."""
    server, grpc = Path(SERVER), port()
    shutil.copytree(server / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    (folder / "backends" / "python" / "triton_python_backend_stub").chmod(0o755)
    program = Path(shutil.copy(server / "bin" / "tritonserver", folder / "tritonserver"))
    program.chmod(0o755)
    libraries = [str(path) for path in (server.parent.parent / "nvidia_pytriton.libs", server / "lib") if path.is_dir()]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{PYTHON}:{os.environ['PATH']}",
    }
    line: list[str | Path] = [
        program,
        f"--model-repository={models}",
        f"--backend-directory={folder / 'backends'}",
        f"--grpc-port={grpc}",
        "--grpc-address=127.0.0.1",
        "--allow-http=false",
        "--allow-metrics=false",
        "--exit-on-error=false",
    ]
    log = folder / "log"
    with log.open("wb") as stream:
        return subprocess.Popen(line, env=environment, stdout=stream, stderr=stream), grpc, log


@pytest.fixture
def served(tiny: Path, tmp_path: Path) -> Iterator[Any]:
    """Serve a bundle, its network through the python backend, and return a client."""
    from tritonclient import grpc

    write_triton(Bundle.open(tiny), tmp_path / "models", TritonConfig(max_batch=4), variant="fp32")
    network = tmp_path / "models" / "tiny_network"
    config = (network / "config.pbtxt").read_text().replace('platform: "onnxruntime_onnx"\n', 'backend: "python"\n')
    (network / "config.pbtxt").write_text(re.sub(r"default_model_filename: .*\n", "", config))
    (network / "1" / "model.py").write_text(NETWORK)
    process, at, log = start(tmp_path / "models", tmp_path)
    client = grpc.InferenceServerClient(f"127.0.0.1:{at}")
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.is_server_ready() and client.is_model_ready("tiny"):
                    break
            except grpc.InferenceServerException:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(60)


def test_the_ensemble_classifies_pictures(served: Any, tiny: Path, tmp_path: Path) -> None:
    from tritonclient import grpc

    encoded = []
    for index, picture in enumerate(photos(3)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        encoded.append((tmp_path / f"{index}.png").read_bytes())

    def ask(pictures: list[bytes], **options: Any) -> np.ndarray:
        tensor = grpc.InferInput("IMAGE", [len(pictures), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(pictures, dtype=object).reshape(-1, 1))
        wanted = grpc.InferRequestedOutput("logits", **options)
        return np.asarray(served.infer("tiny", [tensor], outputs=[wanted]).as_numpy("logits"))

    with Classifier(tiny, "fp32", "onnxruntime", options=OrtOptions(threads=1)) as classify:
        expected = [classify(one, top=2) for one in encoded]
    found = ask(encoded, class_count=2)
    assert [[entry.decode().split(":")[1:] for entry in row] for row in found] == [
        [[str(one.index), LABELS[one.index]] for one in row] for row in expected
    ], "score:index:label, with the labels of the bundle"
    assert ask(encoded[:1]).argmax(1).tolist() == [expected[0][0].index]
    with pytest.raises(grpc.InferenceServerException, match="not an image"):
        ask([b"no picture"])
    assert ask(encoded[2:]).argmax(1).tolist() == [expected[2][0].index]


def test_the_server_takes_the_written_configuration(tiny: Path, tmp_path: Path) -> None:
    """Unchanged: the server reads and checks every configuration, and misses the onnxruntime backend alone."""
    write_triton(Bundle.open(tiny), tmp_path / "models", variant="fp32")
    process, _, log = start(tmp_path / "models", tmp_path)
    try:
        deadline = time.monotonic() + 60
        while "Started GRPCInferenceService" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(60)
    said = log.read_text()
    assert re.search(r"tiny_network .*unable to find backend library for backend 'onnxruntime'", said), said
    assert re.search(r"tiny_preprocess *\| 1 *\| READY", said), said
    assert "Invalid model configuration" not in said
    assert "failed to read text proto" not in said
