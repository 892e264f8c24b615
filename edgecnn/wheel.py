"""The installed edgecnn as a wheel, so that what is carried elsewhere, a folder or a job, brings the very code that was tested with it.

The format is PEP 427's; only the standard library is used, since a device that packages need not have setuptools.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.errors import UserError
from edgecnn.writing import write_bytes

__all__ = ["wheel_bytes", "wheel_name", "write_wheel"]

_MAPPED = ("models", "calib", "examples")
_TIME = (1980, 1, 1, 0, 0, 0)  # zip's beginning: the same code gives the same bytes


def wheel_name() -> str:
    """Return the file's name."""
    return f"edgecnn-{__version__}-py3-none-any.whl"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into a folder and return its path.

    Raises:
        UserError: as :func:`wheel_bytes`.
        OutputError: it cannot be written.
    """
    path = folder / wheel_name()
    write_bytes(path, wheel_bytes())
    return path


def wheel_bytes() -> bytes:
    """Return the wheel. Equal code gives equal bytes; it holds Python and data alone, and so fits every processor.

    Raises:
        UserError: edgecnn is imported from a place where it is not installed.
    """
    entries = dict(_code()) | _metadata()
    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    for name, content in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    name = f"edgecnn-{__version__}.dist-info/RECORD"
    writer.writerow([name, "", ""])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in {**entries, name: record.getvalue().encode()}.items():
            info = zipfile.ZipInfo(entry, _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return made.getvalue()


def _code() -> Iterator[tuple[str, bytes]]:
    """Yield (path in the wheel, content) of every file of the package; folders may be mapped from elsewhere (an editable installation)."""
    root = Path(__file__).parent
    places = {"edgecnn": root}
    for name in _MAPPED:
        spec = find_spec(f"edgecnn.{name}")
        if spec is None or spec.origin is None:
            raise UserError(f"edgecnn.{name} is not installed beside {root}: install edgecnn (pip install edgecnn)")
        places[f"edgecnn/{name}"] = Path(spec.origin).parent
    for prefix, place in sorted(places.items()):
        for path in sorted(place.rglob("*")):
            inner = path.relative_to(place)
            if prefix == "edgecnn" and inner.parts[0] in _MAPPED:
                continue
            if path.is_file() and "__pycache__" not in inner.parts:
                yield f"{prefix}/{inner.as_posix()}", path.read_bytes()


def _metadata() -> dict[str, bytes]:
    """Return what stands in the wheel's ``.dist-info`` besides its RECORD."""
    # A checkout may lie on the path with an egg-info, which is not what was installed.
    own = next((one for one in distributions(name="edgecnn") if one.read_text("METADATA")), None)
    if own is None:
        raise UserError("edgecnn is not installed here, only importable: pip install edgecnn")
    texts = {
        "METADATA": own.read_text("METADATA") or "",
        "licenses/LICENSE": own.read_text("licenses/LICENSE") or "",
        "entry_points.txt": own.read_text("entry_points.txt") or "",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: edgecnn\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return {f"edgecnn-{__version__}.dist-info/{name}": text.encode() for name, text in texts.items() if text}
