"""Placements and scales as text, for goldens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import structures

from edgecnn import zoo
from edgecnn.calib import MinMax
from edgecnn.export import export
from edgecnn.onnxio import load_ir
from edgecnn.quantize import QuantizeConfig, plan, quantize

CONFIGS = {
    "int8": QuantizeConfig(effort="fast", method=MinMax()),
    "int8-shared": QuantizeConfig(effort="fast", method=MinMax(), concat="shared"),
    "int8-cpu": QuantizeConfig(effort="fast", method=MinMax(), scheme="int8-cpu"),
}
CASES = tuple(
    f"{net}.{config}" for net in structures.NETS for config in CONFIGS if config != "int8-shared" or net == "inception"
)
ZOO = ("resnet18", "googlenet", "densenet121", "efficientnet_b0", "mobilenet_v3_small")
GOLDEN = Path(__file__).parents[1] / "golden" / "placement"
TOLERANCE = 0.002
"""Relative difference of scales from machine to machine: the fourth digit may fall either way."""


def case_text(case: str, exports: Path, folder: Path) -> str:
    """Return the decisions of a small network and every scale in its quantized graph."""
    net, _, name = case.partition(".")
    model, images = structures.exported(net, exports), structures.images()
    result = quantize(model, images, CONFIGS[name], to=folder / f"{case}.onnx")
    lines = [
        f"{d.node}: {'int8 ' + str(list(d.inputs)) if d.quantized else 'float'}: {d.reason}"
        for d in result.placement.decisions
    ]
    return "\n".join([*lines, "", *_scales(result.model.path)]) + "\n"


def _scales(path: Path) -> list[str]:
    """Return one line for each QuantizeLinear and each dequantized constant."""
    lines = []
    for node in load_ir(path).graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value, scale = node.inputs[0], node.inputs[1].const_value.numpy()
        readers = ", ".join(sorted(f"{use.node.name}[{use.idx}]" for use in node.outputs[0].uses()))
        if node.op_type == "QuantizeLinear":
            pair = next(iter(node.outputs[0].uses())).node
            readers = ", ".join(sorted(f"{use.node.name}[{use.idx}]" for use in pair.outputs[0].uses()))
            zero = node.inputs[2].const_value.numpy()
            lines.append(f"{value.name} -> {readers}: {zero.dtype} scale {scale:.4g} zero {zero}")
        elif value.const_value is not None:
            kind = f"{value.const_value.numpy().dtype} {list(value.shape)}"
            lines.append(f"{value.name} -> {readers}: {kind} scales {scale.min():.4g} to {scale.max():.4g}")
    return sorted(lines)


def zoo_text(name: str, folder: Path) -> str:
    """Return how many nodes of one of the zoo's networks got each decision, for both schemes."""
    built = zoo.build(zoo.find(name), "random")
    graph = load_ir(export(built.module, built.spec, to=folder / f"{name}.onnx").path)
    lines: list[str] = []
    for scheme in ("int8", "int8-cpu"):
        decisions = plan(graph, CONFIGS[scheme]).decisions
        counts = Counter((d.op, "int8" if d.quantized else "float", d.reason) for d in decisions)
        lines += [
            scheme,
            *(f"  {count:4} {op} {kind}: {reason}" for (op, kind, reason), count in sorted(counts.items())),
        ]
    return "\n".join(lines) + "\n"


def text_of(case: str, exports: Path, folder: Path) -> str:
    """Return the text of a golden, by its name; small networks are exported to ``exports``, all else goes to ``folder``."""
    return zoo_text(case.removeprefix("zoo."), folder) if case.startswith("zoo.") else case_text(case, exports, folder)


def same(found: str, golden: str) -> bool:
    """Whether two texts agree, numbers within the tolerance."""
    ours, theirs = found.split(), golden.split()
    return len(ours) == len(theirs) and all(map(_agree, ours, theirs))


def _agree(one: str, other: str) -> bool:
    """Whether two words are the same, or nearly the same number."""
    if one == other:
        return True
    try:
        a, b = float(one), float(other)
    except ValueError:
        return False
    return "." in one + other and abs(a - b) <= TOLERANCE * abs(b)
