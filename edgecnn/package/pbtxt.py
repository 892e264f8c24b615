"""Protobuf's text format, as much of it as a ``config.pbtxt`` needs: messages, lists, text, numbers, enumerations, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Enum", "dumps"]


class Enum(str):
    """A name that is written without quotes."""

    __slots__ = ()


def dumps(message: Mapping[str, Any]) -> str:
    """Return a message as text.

    Args:
        message: field -> value. A mapping is a message, a list of mappings a repeated message, any other list a repeated scalar, and
            a string a string; an :class:`Enum` an enumeration's name. A map is a list of ``{"key": ..., "value": ...}``.
    """
    return "".join(_field(name, value, "") for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    """Return one field, one line for each of its scalars."""
    if isinstance(value, Mapping):
        inner = "".join(_field(key, part, indent + "  ") for key, part in value.items())
        return f"{indent}{name} {{\n{inner}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_field(name, part, indent) for part in value)
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    """Return a scalar; text as its UTF-8 bytes, those that are not printable ASCII in octal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum) or not isinstance(value, str):
        return str(value)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(plain)}"'
