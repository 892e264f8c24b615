"""Hand-written checks of untrusted JSON and paths, so that reading a bundle needs no JSON Schema library."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgecnn.errors import BundleCorruptError, BundleMissingError, BundlePathError, BundleSchemaError

__all__ = ["Fields", "bundle_path", "regular_file"]

_REQUIRED: Any = object()


class Fields:
    """Typed access to a JSON object; every misfit is a BundleSchemaError that says where."""

    def __init__(self, data: Any, where: str) -> None:
        """Check that it is an object."""
        if not isinstance(data, Mapping):
            raise BundleSchemaError(f"{where}: expected a JSON object, found {type(data).__name__}")
        self.data = data
        self.where = where

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """Return a value of any type."""
        value = self.data.get(key, default)
        if value is _REQUIRED:
            raise BundleSchemaError(f"{self.where}: {key} is missing")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """Return a string."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def sha256(self, key: str) -> str:
        """Return 64 hexadecimal digits."""
        value = self.text(key)
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise self._wrong(key, "64 lower-case hexadecimal digits", value)
        return value

    def integer(self, key: str, default: Any = _REQUIRED, *, low: int | None = None) -> int:
        """Return an integer, of at least ``low``."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
            raise self._wrong(key, "an integer" if low is None else f"an integer of at least {low}", value)
        return value

    def number(self, key: str, *, low: float | None = None) -> float:
        """Return a number, of at least ``low``."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (low is not None and value < low):
            raise self._wrong(key, "a number" if low is None else f"a number of at least {low}", value)
        try:
            return float(value)
        except OverflowError:
            raise self._wrong(key, "a number within float's range", value) from None

    def number_or_none(self, key: str) -> float | None:
        """Return a number, or None if it is absent or null."""
        return None if self.get(key, None) is None else self.number(key)

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise self._wrong(key, "an object", value)
        return value

    def mapping_or_none(self, key: str) -> Mapping[str, Any] | None:
        """Return an object, or None if it is absent or null."""
        return None if self.get(key, None) is None else self.mapping(key)

    def text_mapping(self, key: str) -> Mapping[str, str]:
        """Return an object of strings."""
        value = self.mapping(key)
        if not all(isinstance(item, str) for item in value.values()):
            raise self._wrong(key, "an object of strings", value)
        return value

    def sequence(self, key: str) -> list[Any]:
        """Return a list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        value = self.sequence(key)
        if not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of strings", value)
        return tuple(value)

    def _wrong(self, key: str, wanted: str, value: Any) -> BundleSchemaError:
        """Describe a misfit."""
        shown = repr(value) if isinstance(value, (str, bool, float, type(None))) else type(value).__name__
        if isinstance(value, int) and not isinstance(value, bool):
            shown = str(value) if abs(value) < 10**18 else "a huge integer"
        return BundleSchemaError(f"{self.where}: {key} must be {wanted}, found {shown[:80]}")


def bundle_path(path: str) -> str:
    """Return a path of a manifest, having checked that it names something inside the bundle.

    Allowed is a relative path with forward slashes whose parts are plain names. Refused are absolute paths, ``..``,
    backslashes and drive letters (which mean something else on Windows), control characters and undecodable text.

    Raises:
        BundlePathError: it could lead elsewhere.
    """
    shown = repr(path[:80])
    parts = path.split("/")
    if not path or path.startswith("/") or PurePosixPath(path).is_absolute():
        raise BundlePathError(f"manifest path {shown} must be relative to the bundle")
    if ".." in parts:
        raise BundlePathError(f"manifest path {shown} leaves the bundle's folder")
    if any(part in ("", ".") for part in parts):
        raise BundlePathError(f"manifest path {shown} has an empty or '.' part")
    if any(character in '\\:*?"<>|' or ord(character) < 32 or ord(character) == 127 for character in path):
        raise BundlePathError(f"manifest path {shown} has a character that is not allowed in a bundle")
    try:
        encoded = [part.encode() for part in parts]
    except UnicodeEncodeError:
        raise BundlePathError(f"manifest path {shown} is not valid text") from None
    if any(len(part) > 255 for part in encoded) or len(path) > 1024:
        raise BundlePathError(f"manifest path {shown}... is too long")
    return path


def regular_file(root: Path, path: str) -> tuple[Path, int]:
    """Return where a checked relative path lies and how many bytes it has.

    Raises:
        BundleMissingError: it is not there.
        BundlePathError: it, or a folder on the way, is a symbolic link.
        BundleCorruptError: it is not a regular file.
    """
    place = root
    mode, size = 0, 0
    for part in path.split("/"):
        place = place / part
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise BundleMissingError(f"{root}: {path} is missing: copy the whole folder, or export again") from None
        except OSError as error:
            raise BundleMissingError(f"{root}: {path} cannot be read: {error.strerror or error}") from error
        mode, size = status.st_mode, status.st_size
        if stat.S_ISLNK(mode):
            raise BundlePathError(f"{root}: {path} is, or lies behind, a symbolic link, which a bundle must not hold")
    if not stat.S_ISREG(mode):
        raise BundleCorruptError(f"{root}: {path} is not a regular file")
    return place, size
