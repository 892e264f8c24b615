"""Deformable convolution as a quickly deployable plugin of TensorRT: the kernel is baked into the engine.

TensorRT 10.9 and newer; the engine then runs anywhere without a plugin library and without Python. The kernels are those of
``native/plugin/deform_conv2d.cu``, as PTX, which the GPU's driver compiles when the engine is loaded: compile it with an nvcc
no newer than that driver's CUDA.

    register(compile_ptx("sm_87"))     # once, before the graph is parsed
    run_passes(model, [DeformBaked()])  # and parse what comes out

Written against ``tensorrt.plugin`` as NVIDIA/TensorRT publishes it (``python/packaging/bindings_wheel/tensorrt/plugin`` and
``samples/python/quickly_deployable_plugins``, 11.1): ``register``, ``autotune`` and ``aot_impl`` take functions by the names and
annotations of their arguments; a kernel gets the inputs, then ``extra_args``, then the output.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from edgecnn.errors import BackendError
from edgecnn.native.build import KERNELS
from edgecnn.optional import need
from edgecnn.passes.deform_baked import MODULATED, PLAIN
from edgecnn.passes.deform_plugin import DOMAIN

__all__ = ["register"]

OUTPUTS, POSITIONS, THREADS = 64, 64, 256
"""Of a block: kOutputs, kPositions, kThreads of problem.hpp."""

INPUTS = ("image", "weight", "offset", "bias")
ATTRIBUTES = ("stride", "padding", "dilation", "groups", "offset_groups")
_STATE: dict[str, str] = {}  # "ptx" -> what aot_impl hands out; names of the plugins that are registered


def register(ptx: str) -> None:
    """Register both plugins, with and without a mask, in TensorRT's registry; again only exchanges the kernels.

    Args:
        ptx: what :func:`edgecnn.native.build.compile_ptx` returned.

    Raises:
        MissingDependencyError: no tensorrt.
        BackendError: a TensorRT before 10.9.
    """
    trtp = need("tensorrt.plugin")
    if not hasattr(trtp, "aot_impl"):
        version = getattr(need("tensorrt"), "__version__", "of an unknown version")
        raise BackendError(
            f"baking a kernel into an engine needs TensorRT 10.9 or newer, found {version}: "
            "compile the plugin's library instead (edgecnn plugin build)"
        )
    _STATE["ptx"] = ptx
    for name, inputs in ((PLAIN, INPUTS), (MODULATED, (*INPUTS, "mask"))):
        if name not in _STATE:
            _register(trtp, name, inputs)
            _STATE[name] = "registered"


def _register(trtp: Any, name: str, inputs: tuple[str, ...]) -> None:
    """Register one plugin. TensorRT reads the arguments' names and annotations, so the functions show what it expects."""
    import numpy as np
    import numpy.typing as npt

    def describe(*tensors: Any, **attributes: Any) -> Any:
        return _output(tensors[0], tensors[1], attributes)

    def formats(*_: Any) -> Any:
        return [trtp.AutoTuneCombination(", ".join(["FP32|FP16"] * (len(inputs) + 1)), "LINEAR")]

    def kernel(*values: Any) -> Any:
        *tensors, stride, padding, dilation, groups, offset_groups, outputs, _ = values
        attributes = dict(zip(ATTRIBUTES, (stride, padding, dilation, groups, offset_groups), strict=True))
        return _kernel(trtp, tensors, outputs[0], attributes)

    tensors = dict.fromkeys(inputs, trtp.TensorDesc)
    # Arrays for the two numbers too: the parser gives every attribute as an array of int32.
    attributes = dict.fromkeys(ATTRIBUTES, npt.NDArray[np.int32])
    nothing = inspect.Parameter.empty
    last = {"outputs": nothing, "tactic": nothing}
    _show(describe, {**tensors, **attributes}, trtp.TensorDesc)
    _show(formats, {**tensors, "outputs": nothing}, nothing)
    returned = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
    _show(kernel, {**tensors, **attributes, **last}, returned)
    identifier = f"{DOMAIN}::{name}"
    trtp.register(identifier)(describe)
    trtp.autotune(identifier)(formats)
    trtp.aot_impl(identifier)(kernel)


def _show(function: Any, parameters: dict[str, Any], returned: Any) -> None:
    """Give a function of any arguments the signature that TensorRT is to see."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    shown = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = inspect.Signature(shown, return_annotation=returned)


def _output(image: Any, weight: Any, attributes: Mapping[str, Sequence[int]]) -> Any:
    """Describe the output: the input's type; shape (N, C_out, H_out, W_out) as expressions of the inputs' shapes."""
    stride, padding, dilation = (attributes[name] for name in ("stride", "padding", "dilation"))
    output = image.like()
    output.shape_expr[1] = weight.shape_expr[0]
    for axis in (0, 1):
        # (size + pads - dilation * (kernel - 1) - 1) // stride + 1; an expression must stand on the left of an operator
        step, pads = int(dilation[axis]), int(padding[axis]) + int(padding[axis + 2])
        room = image.shape_expr[2 + axis] + (pads + step - 1) - weight.shape_expr[2 + axis] * step
        output.shape_expr[2 + axis] = room // int(stride[axis]) + 1
    return output


def _kernel(
    trtp: Any, tensors: Sequence[Any], output: Any, attributes: Mapping[str, Sequence[int]]
) -> tuple[str, str, Any, Any]:
    """Return the kernel's name, its PTX, its grid, and the 17 integers of Problem (problem.hpp) in order."""
    image, weight = tensors[:2]
    numbers = {name: [int(value) for value in attributes[name]] for name in ATTRIBUTES}
    (groups,) = numbers["groups"]
    positions = output.shape_expr[0] * output.shape_expr[2] * output.shape_expr[3]
    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(positions, POSITIONS)
    launch.grid_y = trtp.cdiv(weight.shape_expr[0] // groups, OUTPUTS) * groups
    launch.block_x = THREADS
    launch.shared_mem = 0  # what the kernel declares itself is not counted here
    problem = [
        *(image.shape_expr[axis] for axis in range(4)),
        *(output.shape_expr[axis] for axis in (1, 2, 3)),
        *(weight.shape_expr[axis] for axis in (2, 3)),
        *numbers["stride"],
        *numbers["padding"][:2],
        *numbers["dilation"],
        groups,
        *numbers["offset_groups"],
    ]
    half = image.dtype == need("tensorrt").float16
    name = KERNELS[len(tensors) == len(INPUTS) + 1, "float16" if half else "float32"]
    return name, _STATE["ptx"], launch, trtp.SymIntExprs.from_tuple([trtp.SymInt32(number) for number in problem])
