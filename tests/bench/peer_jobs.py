"""What runs in a peer's own environment: ``build/peers/NAME/bin/python peer_jobs.py JOB FLOAT.onnx SAMPLES.npy TO``.

Each job quantizes as the peer's documentation says to, and prints one JSON line: the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def nncf(model: Any, samples: Any, **options: Any) -> Any:
    """Quantize with NNCF's post-training quantization."""
    from nncf import Dataset, quantize

    feeds = Dataset([{"input": row[None]} for row in samples])
    return quantize(model, feeds, subset_size=len(samples), **options)


def nncf_onnx(path: str, samples: Any, to: str, **options: Any) -> None:
    """Quantize an ONNX file."""
    import onnx

    onnx.save(nncf(onnx.load(path), samples, **options), to)


def nncf_default(path: str, samples: Any, to: str) -> None:
    """Quantize with NNCF's defaults."""
    nncf_onnx(path, samples, to)


def nncf_accurate(path: str, samples: Any, to: str) -> None:
    """Quantize with symmetric activations per tensor, uint8 behind ReLU, and its accurate bias correction."""
    from nncf import AdvancedQuantizationParameters
    from nncf.quantization.advanced_parameters import QuantizationParameters

    own = AdvancedQuantizationParameters(activations_quantization_params=QuantizationParameters(per_channel=False))
    nncf_onnx(path, samples, to, fast_bias_correction=False, advanced_parameters=own)


def nncf_signed(path: str, samples: Any, to: str) -> None:
    """Do the same and make its uint8 activations int8 over the same range, as TensorRT takes them."""
    import onnx
    from onnx import numpy_helper

    nncf_accurate(path, samples, to)
    model = onnx.load(to)
    constants = {item.name: item for item in model.graph.initializer}
    pairs = [node.input for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = {names[2]: numpy_helper.to_array(constants[names[2]]) for names in pairs}
    unsigned = {name for name, zero in zeros.items() if zero.dtype == np.uint8}
    assert not any(zero.any() for zero in zeros.values()), "symmetric"
    for name in {names[1] for names in pairs if names[2] in unsigned}:
        scale = numpy_helper.to_array(constants[name]) * np.float32(255 / 127)
        constants[name].CopyFrom(numpy_helper.from_array(scale, name))
    for name in unsigned:
        constants[name].CopyFrom(numpy_helper.from_array(zeros[name].astype(np.int8), name))
    del model.graph.value_info[:]  # it still calls them uint8
    onnx.save(model, to)


def nncf_openvino(path: str, samples: Any, to: str) -> None:
    """Quantize OpenVINO's own form of the network with NNCF's defaults, for its speed."""
    import openvino

    openvino.save_model(nncf(openvino.convert_model(path), samples), to, compress_to_fp16=False)


def modelopt(path: str, samples: Any, to: str, method: str) -> None:
    """Quantize with ModelOpt; what it leaves in float stays FP32."""
    from modelopt.onnx.quantization import quantize

    quantize(
        path,
        calibration_data={"input": samples},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=to,
    )


def modelopt_max(path: str, samples: Any, to: str) -> None:
    """Quantize with the extremes."""
    modelopt(path, samples, to, "max")


def modelopt_entropy(path: str, samples: Any, to: str) -> None:
    """Quantize with its default, entropy."""
    modelopt(path, samples, to, "entropy")


JOBS = (nncf_default, nncf_accurate, nncf_signed, nncf_openvino, modelopt_max, modelopt_entropy)

if __name__ == "__main__":
    job = next(job for job in JOBS if job.__name__ == sys.argv[1])
    start = time.perf_counter()
    job(sys.argv[2], np.load(sys.argv[3]), sys.argv[4])
    assert Path(sys.argv[4]).stat().st_size
    print(json.dumps({"seconds": time.perf_counter() - start}))
