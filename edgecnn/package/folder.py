"""Folders of ours: written whole or not at all, with a record of what is in them, and replaced only where they hold nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecnn._version import __version__
from edgecnn.artifacts import sha256_file
from edgecnn.errors import BundleUnverifiedError
from edgecnn.runtime import Bundle
from edgecnn.runtime.bundle import PARITY
from edgecnn.runtime.manifest import MANIFEST
from edgecnn.writing import replace_directory, write_json

__all__ = ["RECORD", "check_verified", "packaged"]

RECORD = "edgecnn-package.json"


@contextmanager
def packaged(
    bundle: Bundle, destination: Path, kind: str, facts: Mapping[str, Any], *, force: bool = False
) -> Iterator[Path]:
    """Give a folder to fill, which takes ``destination``'s place in one step, with a record of what was written.

    Args:
        bundle: what is packaged; the record names it by the hash of its manifest.
        destination: the folder to write.
        kind: ``triton`` or ``docker``.
        facts: for the record, JSON.
        force: replace an existing folder of ours.

    Raises:
        OutputError: the destination exists, holds other files, or cannot be written.
    """
    with replace_directory(destination, force=force, foreign=_foreign) as folder:
        yield folder
        record = {
            "kind": kind,
            "edgecnn": __version__,
            "model": bundle.spec.name,
            "bundle": sha256_file(bundle.path / MANIFEST),
            **facts,
            "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        }
        write_json(folder / RECORD, record)


def check_verified(bundle: Bundle, variant: str, backend: str, *, allow_unverified: bool) -> None:
    """Refuse a variant that failed verification, for good or on a backend. Raises BundleUnverifiedError."""
    chosen = bundle.variant(variant)
    if allow_unverified or (bundle.manifest.verified and chosen.verified_on(backend)):
        return
    where = f" on {backend}" if bundle.manifest.verified and chosen.verified else ""
    raise BundleUnverifiedError(
        f"{bundle.path}: {variant} failed verification{where} when it was written (see {PARITY}); "
        "packaging it all the same needs --allow-unverified (allow_unverified=True)"
    )


def _foreign(folder: Path) -> str:
    """Say why a folder must not be replaced, or "" where all of it was written by us."""
    try:
        known = {RECORD, *json.loads((folder / RECORD).read_bytes())["files"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"it was not written by edgecnn package (no readable {RECORD}); remove it yourself if you mean to"
    found = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    )
    extra = sorted(name for name in found if name not in known)
    if extra:
        return (
            f"it holds {len(extra)} file(s) that are not the package's ({', '.join(extra[:3])}): move them away first"
        )
    return ""
