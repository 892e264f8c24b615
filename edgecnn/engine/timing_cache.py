"""The builder's measured kernels, kept in a file of its own kind (trtexec reads it too) with a note beside it that says what it is of."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from edgecnn.errors import UserError
from edgecnn.writing import write_bytes, write_json

__all__ = ["note_path", "read_cache", "write_cache"]

log = logging.getLogger("edgecnn.engine")


def note_path(path: Path) -> Path:
    """Return where the note lies."""
    return path.with_name(path.name + ".json")


def read_cache(path: Path, key: Mapping[str, str]) -> tuple[bytes, str]:
    """Return a cache's bytes, and why it is not used: then the bytes are empty, the build measures anew and replaces the file.

    Args:
        path: the file; it need not be there.
        key: what the cache must be of: flavour, version, gpu and graph.

    Raises:
        UserError: it is not a file, or cannot be read.
    """
    if not path.exists():
        return b"", ""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the timing cache {path} cannot be read: {error.strerror or error}") from error
    try:
        note = json.loads(note_path(path).read_bytes())
        of, sha256 = dict(note["of"]), str(note["sha256"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return (
            b"",
            f"the timing cache {path} has no readable {note_path(path).name}, so that nothing says what it is of",
        )
    if hashlib.sha256(content).hexdigest() != sha256:
        return b"", f"the timing cache {path} is truncated or was changed: its sha256 differs"
    for name, wanted in key.items():
        if of.get(name) != wanted:
            return b"", f"the timing cache {path} is of another {name}: {str(of.get(name))[:40]!r}, now {wanted[:40]!r}"
    return content, ""


def write_cache(path: Path, content: bytes, key: Mapping[str, str]) -> str:
    """Write a cache and its note, each whole or not at all, and return its sha256. Raises OutputError.

    The cache goes first: killed between the two, the old note does not fit it, and the next build measures anew.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    write_bytes(path, content)
    write_json(note_path(path), {"of": dict(key), "sha256": sha256})
    return sha256
