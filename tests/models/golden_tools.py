"""Proof that a network of ours is the public one: layout, size, and logits on the recipe's weights and input.

``check_golden("resnet50")`` uses the full record ``tests/golden/resnet50.json`` (published input size, every key),
``check_compact("resnet34")`` the record in ``tests/golden/compact.json`` (small input, checksums). Both find the builder in the
zoo table and pass it further keyword arguments.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import golden_input, layout_crc32, state_crc32, synthetic_state
from torch import nn

from edgecnn.models import specs
from edgecnn.models.layers import count_macs, count_parameters

__all__ = [
    "check_compact",
    "check_golden",
    "compact_golden",
    "filled",
    "full_golden",
    "golden_input",
    "synthetic_state",
]

GOLDEN = Path(__file__).parents[1] / "golden"
FLOAT64_TOLERANCE = 1e-9
FLOAT32_NOISE_FACTOR = 10


def full_golden(name: str) -> dict[str, Any]:
    """Return a full record."""
    path = GOLDEN / f"{name}.json"
    return json.loads((path if path.exists() else GOLDEN / "extra" / path.name).read_text())


def compact_golden(name: str) -> dict[str, Any]:
    """Return a compact record."""
    return _compact()[name]


@cache
def _compact() -> dict[str, Any]:
    return json.loads((GOLDEN / "compact.json").read_text())


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a zoo model without storage: shapes only, in evaluation mode."""
    spec = specs()[name]
    module, _, function = spec.builder.partition(":")
    with torch.device("meta"):
        network: nn.Module = getattr(import_module(module), function)(**{**spec.arguments, **arguments})
    return network.eval()


def layout(network: nn.Module) -> list[list[Any]]:
    """Return [[key, shape], ...] in order."""
    return [[key, list(value.shape)] for key, value in network.state_dict().items()]


def filled(name: str, crc32: str = "", **arguments: Any) -> nn.Module:
    """Build a zoo model with the recipe's weights, whose checksum must be ``crc32`` where one is given."""
    network = build(name, **arguments)
    state = synthetic_state(layout(network))
    if crc32:
        assert state_crc32(state) == crc32, "the recipe's bytes differ: the logits would mean nothing"
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, assign=True)
    return network


def check_golden(name: str, **arguments: Any) -> None:
    """Assert that a model has its golden's keys, shapes, sizes, BatchNorm eps, and logits of all its heads."""
    golden = full_golden(name)
    network = build(name, **arguments)
    assert layout(network) == golden["state"]
    _check_size(network, golden)
    without_aux = build(name, **arguments, aux_logits=False) if "aux_eval" in golden else network
    assert count_parameters(without_aux) == golden["num_params_without_aux"]

    network = filled(name, golden["state_crc32"], **arguments)
    _check_logits(network, golden)
    if "aux_eval" in golden:
        _check_heads(network.double(), golden)


def check_compact(name: str, **arguments: Any) -> None:
    """Assert that a model has its compact golden's layout, sizes, BatchNorm eps and logits."""
    golden = compact_golden(name)
    network = build(name, **arguments)
    state = layout(network)
    assert len(state) == golden["num_keys"]
    assert layout_crc32(state) == golden["layout_crc32"], f"keys, shapes or their order differ; ours are {state}"
    _check_size(network, golden)
    _check_logits(filled(name, golden["state_crc32"], **arguments), golden)


def run(network: nn.Module, size: int, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Return the logits of the recipe's input; the network becomes ``dtype``."""
    with torch.no_grad():
        return network.to(dtype)(torch.from_numpy(golden_input(size)).to(dtype)).double().numpy()


def check_export(name: str, size: int, **arguments: Any) -> torch.export.ExportedProgram:
    """Assert that torch.export takes the model with a dynamic batch and that other batch sizes give the model's logits."""
    network = filled(name, **arguments)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: batch},))
    for count in (1, 3):
        images = torch.from_numpy(golden_input(size))[:1].expand(count, -1, -1, -1)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), network(images))
    return program


def used_parameters(program: torch.export.ExportedProgram) -> set[str]:
    """Return the state-dict keys that the exported graph reads."""
    signature = program.graph_signature
    keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {
        keys[node.name] for node in program.graph.nodes if node.op == "placeholder" and node.users and node.name in keys
    }


def check_family(builder: Any, size: int) -> None:
    """Assert what every family promises: other class counts, and activations that a forward hook can observe."""
    with torch.device("meta"):
        network = builder(num_classes=7).eval()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 7)
    assert not [name for name, module in network.named_modules() if getattr(module, "inplace", False)]


def _check_size(network: nn.Module, golden: dict[str, Any]) -> None:
    size = golden["input_size"]
    assert count_parameters(network) == golden["num_params"]
    assert count_macs(network, (3, size, size)) == golden["macs"]
    assert sorted({m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)}) == golden["bn_eps"]


def _check_logits(network: nn.Module, golden: dict[str, Any]) -> None:
    size = golden["input_size"]
    _compare(run(network, size, torch.float32), golden["logits"], FLOAT32_NOISE_FACTOR * golden["f32_vs_f64_max_abs"])
    _compare(run(network, size), golden["logits"], FLOAT64_TOLERANCE)


def _check_heads(network: nn.Module, golden: dict[str, Any]) -> None:
    maps: dict[str, torch.Tensor] = {}
    for head in golden["aux_eval"].values():
        fed_by = head["fed_by"]
        hook = network.get_submodule(fed_by).register_forward_hook(
            lambda _m, _i, out, to=fed_by: maps.update({to: out})
        )
        run(network, golden["input_size"])
        hook.remove()
    for name, head in golden["aux_eval"].items():
        with torch.no_grad():
            logits = network.get_submodule(name)(maps[head["fed_by"]]).numpy()
        _compare(logits, head["logits"], FLOAT64_TOLERANCE)
    network.transform_input = True  # type: ignore[assignment]
    _compare(run(network, golden["input_size"]), golden["logits_transform_input_true"], FLOAT64_TOLERANCE)


def _compare(found: np.ndarray, expected: dict[str, Any], tolerance: float) -> None:
    """Compare the stated logits, and norm and winner for the rest. A norm is as exact as one logit, times sqrt(classes)."""
    np.testing.assert_allclose(found[:, :16], expected["head16"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        np.sqrt((found**2).sum(1)), expected["l2"], rtol=0, atol=tolerance * found.shape[1] ** 0.5
    )
    if min(expected.get("argmax_margin", [1.0])) > 2 * tolerance:
        assert found.argmax(1).tolist() == expected["argmax"]
