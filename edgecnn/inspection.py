"""What is in a bundle or an ONNX file, as data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgecnn.onnxio import load_ir, open_model
from edgecnn.quantize.equalization import SCALES
from edgecnn.quantize.lint import LintTarget, lint
from edgecnn.runtime.bundle import Bundle

__all__ = ["inspect_bundle", "inspect_onnx"]


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Return a bundle's manifest, JSON, each variant with its decisions and their reasons.

    Raises:
        BundleError: it cannot be read.
    """
    bundle = Bundle.open(path, allow_unverified=True)
    return {
        "kind": "bundle",
        "path": str(path),
        "warnings": list(bundle.warnings()),
        "default_variant": bundle.choose().variant,
        "default_backend": bundle.choose().backend,
        "manifest": bundle.manifest.to_json(),
    }


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Return an ONNX file's borders, operators, Q/DQ with its faults, and metadata, JSON.

    Raises:
        UserError: it cannot be read, or has no static ranks.
    """
    model = open_model(path)
    graph = load_ir(path)
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.graph)
    quantized = sum(
        1
        for node in graph.graph
        if node.op_type in ("Conv", "Gemm")
        and node.inputs[1] is not None
        and (producer := node.inputs[1].producer()) is not None
        and producer.op_type == "DequantizeLinear"
    )
    target: LintTarget = "cpu" if graph.metadata_props.get("edgecnn.precision") == "int8-cpu" else "tensorrt"
    weights = [value.const_value for value in graph.graph.initializers.values() if value.const_value is not None]
    return {
        "kind": "onnx",
        "path": str(path),
        "sha256": model.sha256,
        "opset": model.opset,
        "nodes": model.nodes,
        "inputs": [spec.to_json() for spec in model.inputs],
        "outputs": [spec.to_json() for spec in model.outputs],
        "operators": dict(sorted(operators.items())),
        "weighted_layers": operators["Conv"] + operators["Gemm"],
        "int8_layers": quantized,
        "lint": {"target": target, "findings": [finding.to_json() for finding in lint(graph, target=target)]},
        "weight_bytes": sum(tensor.nbytes for tensor in weights),
        "metadata": {key: value for key, value in graph.metadata_props.items() if key != SCALES},
    }
