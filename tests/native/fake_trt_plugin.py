"""A fake of ``tensorrt.plugin`` that takes and refuses what the real one does, and computes with numbers for shapes.

Recorded from what NVIDIA publishes of TensorRT 10.9 to 11.1: how the decorators check a function's arguments (names, order,
annotations), which operators a shape expression has (an integer may stand on the right only), what ``cdiv`` refuses, what a
launch may set, and in which order and form the functions are called. Nothing of it ran against a TensorRT.
"""

from __future__ import annotations

import inspect
import types
from typing import Any, get_args, get_origin

import numpy as np


class SymInt32:
    """A number that TensorRT would know at run time."""

    def __init__(self, value: int | SymInt32) -> None:
        assert isinstance(value, (int, SymInt32)), f"no expression: {type(value)}"
        assert not isinstance(value, (bool, np.integer)), "the bindings take Python's int"
        self.value: int = value.value if isinstance(value, SymInt32) else value

    def __add__(self, other: int | SymInt32) -> SymInt32:
        return SymInt32(self.value + SymInt32(other).value)

    def __sub__(self, other: int | SymInt32) -> SymInt32:
        return SymInt32(self.value - SymInt32(other).value)

    def __mul__(self, other: int | SymInt32) -> SymInt32:
        return SymInt32(self.value * SymInt32(other).value)

    def __floordiv__(self, other: int | SymInt32) -> SymInt32:
        return SymInt32(self.value // SymInt32(other).value)


class TensorDesc:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape_expr = [SymInt32(length) for length in shape]
        self.dtype = dtype

    def like(self) -> TensorDesc:
        return TensorDesc(tuple(length.value for length in self.shape_expr), self.dtype)


class KernelLaunchParams:
    def __init__(self) -> None:
        for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"):
            setattr(self, name, 1)
        self.shared_mem = 0

    def __setattr__(self, name: str, value: int | SymInt32) -> None:
        assert name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem"), name
        self.__dict__[name] = SymInt32(value).value


class SymIntExprs(list[SymInt32]):
    @classmethod
    def from_tuple(cls, values: Any) -> SymIntExprs:
        assert all(isinstance(value, SymInt32) for value in values)
        return cls(values)


class AutoTuneCombination:
    def __init__(self, types_: str, formats: str) -> None:
        self.types = [part.strip().split("|") for part in types_.split(",")]
        self.formats = formats


class FakePlugin(types.ModuleType):
    """``tensorrt.plugin``; ``baking=False`` is TensorRT 10.8, which has no ``aot_impl``."""

    TensorDesc, KernelLaunchParams, SymInt32, SymIntExprs = TensorDesc, KernelLaunchParams, SymInt32, SymIntExprs
    AutoTuneCombination = AutoTuneCombination

    def __init__(self, *, baking: bool = True) -> None:
        super().__init__("tensorrt.plugin")
        self.registered: dict[str, dict[str, Any]] = {}
        if baking:
            self.aot_impl = self._aot_impl

    @staticmethod
    def cdiv(first: SymInt32, second: int) -> SymInt32:
        assert isinstance(first, SymInt32), "both arguments must not be integers"
        return SymInt32(-(-first.value // SymInt32(second).value))

    def register(self, plugin_id: str) -> Any:
        def decorate(function: Any) -> Any:
            assert plugin_id not in self.registered, f"already has a definition for {plugin_id}"
            signature = inspect.signature(function)
            assert signature.return_annotation is TensorDesc
            tensors, attributes = [], {}
            for name, parameter in signature.parameters.items():
                assert parameter.default is inspect.Parameter.empty
                assert name not in ("outputs", "stream", "tactic")
                if parameter.annotation is TensorDesc:
                    assert not attributes, "tensors come before attributes"
                    tensors.append(name)
                else:
                    shape_and_dtype = get_args(parameter.annotation)
                    assert get_origin(parameter.annotation) is np.ndarray
                    assert get_args(shape_and_dtype[1]) == (np.int32,)
                    attributes[name] = np.int32
            self.registered[plugin_id] = {"describe": function, "tensors": tensors, "attributes": list(attributes)}
            return function

        return decorate

    def autotune(self, plugin_id: str) -> Any:
        def decorate(function: Any) -> Any:
            found = self.registered[plugin_id]
            assert list(inspect.signature(function).parameters) == [*found["tensors"], "outputs"]
            found["formats"] = function
            return function

        return decorate

    def _aot_impl(self, plugin_id: str) -> Any:
        def decorate(function: Any) -> Any:
            found = self.registered[plugin_id]
            signature = inspect.signature(function)
            assert list(signature.parameters) == [*found["tensors"], *found["attributes"], "outputs", "tactic"]
            name, text, launch, numbers = get_args(signature.return_annotation)
            assert set(get_args(name)) == set(get_args(text)) == {str, bytes}
            assert (launch, numbers) == (KernelLaunchParams, SymIntExprs)
            found["kernel"] = function
            return function

        return decorate

    def build(self, plugin_id: str, shapes: list[tuple[int, ...]], dtype: str, fields: dict[str, list[int]]) -> Any:
        """Do what building an engine does; return output shape, kernel name, kernel text, launch parameters, integers."""
        found = self.registered[plugin_id]
        attributes = {name: np.array(values, np.int32) for name, values in fields.items()}
        assert list(attributes) == found["attributes"]
        tensors = [TensorDesc(shape, dtype) for shape in shapes]
        output = found["describe"](*tensors, **attributes)
        combinations = found["formats"](*tensors, (output,))
        assert all(len(one.types) == len(tensors) + 1 for one in combinations)
        name, text, launch, numbers = found["kernel"](*tensors, *attributes.values(), (output,), 0)
        shape = tuple(length.value for length in output.shape_expr)
        return shape, name, text, launch, [number.value for number in numbers]
