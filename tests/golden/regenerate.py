"""Regenerate or check the goldens with torchvision's and timm's own networks. Run by hand, never by the tests.

In an environment of its own (``pip install torch torchvision timm``)::

    python tests/golden/regenerate.py            # write every golden
    python tests/golden/regenerate.py --check    # compare instead of writing; exit code 1 when one departs
    python tests/golden/regenerate.py --check resnet18 googlenet

``<model>.json`` is a full record at the published input size, ``compact.json`` one small record for each model of the zoo that
torchvision or timm defines. All values are of a float64 run; ``f32_vs_f64_max_abs`` is the float32 noise of this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import recipe
import timm
import torch
import torchvision
from torch import nn

HERE = Path(__file__).parent
COMPACT = HERE / "compact.json"


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: long lists of names stay readable."""
    return tuple(text.split())


FULL = words(
    "vgg11 vgg16 vgg19_bn googlenet inception_v3 resnet18 resnet50 resnet152 resnext50_32x4d wide_resnet50_2 densenet121 "
    "densenet161 seresnet50 seresnext50_32x4d efficientnet_b0 efficientnet_b1 efficientnet_b4 efficientnet_v2_s "
    "efficientnet_lite0 efficientnet_lite2 mobilenet_v2 mobilenet_v3_large tf_efficientnet_lite0"
)

TORCHVISION = words(
    "vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn googlenet inception_v3 resnet18 resnet34 resnet50 resnet101 "
    "resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2 densenet121 densenet161 "
    "densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 "
    "efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l mobilenet_v2 mobilenet_v3_small "
    "mobilenet_v3_large"
)

TIMM = words(
    "seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnext50_32x4d efficientnet_lite0 efficientnet_lite1 "
    "efficientnet_lite2 efficientnet_lite3 efficientnet_lite4 tf_efficientnet_lite0 tf_efficientnet_lite1 "
    "tf_efficientnet_lite2 tf_efficientnet_lite3 tf_efficientnet_lite4"
)

FULL_SIZES = {"inception_v3": 299, "efficientnet_b1": 240, "efficientnet_b4": 380}
FULL_SIZES |= {"efficientnet_v2_s": 384, "efficientnet_lite2": 260}
"""Input sizes that differ from 224."""

COMPACT_SIZES = {"inception_v3": 107}
"""Input sizes that differ from 64."""

AUX_FED_BY = {"googlenet": {"aux1": "inception4a", "aux2": "inception4d"}, "inception_v3": {"AuxLogits": "Mixed_6e"}}


def source(name: str) -> dict[str, str]:
    """Return who defines the network."""
    library = torchvision if name in TORCHVISION else timm
    return {"source": library.__name__, "source_version": library.__version__}


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the reference network, untrained and in evaluation mode, and its builder's arguments."""
    arguments: dict[str, Any] = {"num_classes": 1000}
    if name in AUX_FED_BY:
        arguments |= {"aux_logits": True, "transform_input": False}
    if name.startswith("vgg") or name in AUX_FED_BY:
        arguments["init_weights"] = False
    if name in TORCHVISION:
        return torchvision.models.get_model(name, weights=None, **arguments).eval(), arguments
    return timm.create_model(name, pretrained=False, **arguments).eval(), arguments


def layout(network: nn.Module) -> list[list[Any]]:
    """Return [[key, shape], ...] in order."""
    return [[key, list(value.shape)] for key, value in network.state_dict().items()]


def fill(network: nn.Module) -> str:
    """Load the recipe's weights and return their checksum."""
    state = recipe.synthetic_state(layout(network))
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return recipe.state_crc32(state)


def run(network: nn.Module, size: int, dtype: torch.dtype) -> np.ndarray:
    """Return the logits of the recipe's input."""
    with torch.no_grad():
        return network.to(dtype)(torch.from_numpy(recipe.golden_input(size)).to(dtype)).numpy()


def count_macs(network: nn.Module, size: int) -> int:
    """Return the multiply-adds of one image, by hooks."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        counts.append(output[0].numel() * layer.weight[0].numel())

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def facts(name: str, network: nn.Module, size: int) -> dict[str, Any]:
    """Return what both kinds of record hold. The network is float64 afterwards."""
    crc32 = fill(network)
    macs = count_macs(network, size)
    single = run(network, size, torch.float32)
    double = run(network, size, torch.float64)
    aux = tuple(AUX_FED_BY.get(name, ()))
    sizes = {key: p.numel() for key, p in network.named_parameters()}
    return {
        "state_crc32": crc32,
        "num_params": sum(sizes.values()),
        "num_params_without_aux": sum(n for key, n in sizes.items() if key.partition(".")[0] not in aux),
        "macs": macs,
        "bn_eps": sorted({m.eps for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}),
        "logits": recipe.describe_logits(double),
        "logits_absmax": float(np.abs(double).max()),
        "f32_vs_f64_max_abs": float(np.abs(single - double).max()),
    }


def heads(name: str, network: nn.Module, size: int) -> dict[str, Any]:
    """Return the auxiliary heads' logits in evaluation mode, and the main ones with transform_input."""
    if name not in AUX_FED_BY:
        return {}
    maps: dict[str, torch.Tensor] = {}
    for fed_by in AUX_FED_BY[name].values():
        module = network.get_submodule(fed_by)
        module.register_forward_hook(lambda _m, _i, output, fed_by=fed_by: maps.update({fed_by: output}))
    run(network, size, torch.float64)
    with torch.no_grad():
        aux = {
            head: {
                "fed_by": fed_by,
                "logits": recipe.describe_logits(network.get_submodule(head)(maps[fed_by]).numpy()),
            }
            for head, fed_by in AUX_FED_BY[name].items()
        }
    network.transform_input = True
    return {"aux_eval": aux, "logits_transform_input_true": recipe.describe_logits(run(network, size, torch.float64))}


def full_record(name: str) -> dict[str, Any]:
    """Return the content of ``<model>.json``."""
    network, arguments = build(name)
    size = FULL_SIZES.get(name, 224)
    state = layout(network)
    origin = {"name": name} | source(name) | {"build_kwargs": arguments, "input_size": size}
    origin |= {"input_crc32": recipe.bytes_crc32(recipe.golden_input(size))}
    return origin | facts(name, network, size) | heads(name, network, size) | {"state": state}


def compact_record(name: str) -> dict[str, Any]:
    """Return a model's record in compact.json: checksums instead of lists, a small input."""
    network, _ = build(name)
    state = layout(network)
    size = COMPACT_SIZES.get(name, 64)
    record = facts(name, network, size)
    del record["logits"]["mean"], record["logits"]["argmax_margin"]
    origin = source(name) | {"input_size": size, "num_keys": len(state), "layout_crc32": recipe.layout_crc32(state)}
    return origin | record


def departures(stored: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield what differs. Numbers may differ by 1e-9, the float32 noise by a factor of 4."""
    if isinstance(stored, dict) and isinstance(found, dict) and stored.keys() == found.keys():
        for key in stored:
            yield from departures(stored[key], found[key], f"{path}/{key}")
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for i, (old, new) in enumerate(zip(stored, found, strict=True)):
            yield from departures(old, new, f"{path}[{i}]")
    elif path.endswith("f32_vs_f64_max_abs"):
        if not stored / 4 <= found <= stored * 4:
            yield f"{path}: stored {stored:.3g}, found {found:.3g}"
    elif isinstance(stored, float) and isinstance(found, float):
        if abs(stored - found) > 1e-9:
            yield f"{path}: stored {stored!r}, found {found!r}, {abs(stored - found):.2g} apart"
    elif stored != found:
        yield f"{path}: stored {stored!r}, found {found!r}"


def to_text(record: dict[str, Any]) -> str:
    """Return JSON with one field, and one entry of ``state``, a line."""
    lines = []
    for key, value in record.items():
        text = json.dumps(value)
        if key == "state":
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def full_path(name: str) -> Path:
    """Return where a full record lies."""
    return HERE / ("extra" if name.startswith("tf_") else "") / f"{name}.json"


def report(title: str, stored: dict[str, Any] | None, found: dict[str, Any]) -> bool:
    """Print how a record compares with the stored one; return whether it is the same."""
    differences = ["there is none yet"] if stored is None else list(departures(stored, found))
    print(f"{title}: " + ("; ".join(differences[:5]) or "equal"), flush=True)
    return not differences


def check(names: Sequence[str]) -> int:
    """Compare every record with a new one; return the exit code."""
    compact = json.loads(COMPACT.read_text()) if COMPACT.exists() else {}
    same = []
    for name in names:
        if name in FULL:
            same.append(report(f"{name} (full)", json.loads(full_path(name).read_text()), full_record(name)))
        same.append(report(f"{name} (compact)", compact.get(name), compact_record(name)))
    return 0 if all(same) else 1


def write(names: Sequence[str]) -> int:
    """Write every record; return the exit code."""
    compact = json.loads(COMPACT.read_text()) if COMPACT.exists() else {}
    for name in names:
        if name in FULL:
            full_path(name).write_text(to_text(full_record(name)))
        compact[name] = compact_record(name)
        print(name, flush=True)
    COMPACT.write_text(to_text({name: compact[name] for name in sorted(compact)}))
    return 0


def main() -> int:
    """Parse the command line and do what it says; return the exit code."""
    parser = argparse.ArgumentParser(description="regenerate or check the goldens")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("models", nargs="*", help="all when none is named")
    options = parser.parse_args()
    names = options.models or [*TORCHVISION, *TIMM]
    return check(names) if options.check else write(names)


if __name__ == "__main__":
    sys.exit(main())
