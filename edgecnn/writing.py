"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from edgecnn.errors import OutputError

__all__ = ["atomic_file", "check_replaceable", "check_writable", "replace_directory", "write_bytes", "write_json"]


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing; on success it replaces ``path``, on any failure it is removed.

    Raises:
        OutputError: the folder does not exist, is not writable, or the disk is full.
    """
    handle, temporary = _temporary_file(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _temporary_file(path: Path) -> tuple[int, Path]:
    """Create and open a file beside ``path``. Raises OutputError."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return handle, Path(name)


def check_writable(path: Path) -> None:
    """Refuse a file that :func:`atomic_file` could not write, before the work whose result it takes. Raises OutputError."""
    try:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; give the name of a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: {path.parent} is not a folder")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    handle, temporary = _temporary_file(path)  # no question of permissions: a file system may be read-only, or special
    os.close(handle)
    temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all. Raises OutputError."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON to ``path``, whole or not at all. NaN and infinity are refused. Raises OutputError."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def replace_directory(
    destination: Path, *, force: bool = False, foreign: Callable[[Path], str] | None = None
) -> Iterator[Path]:
    """Give a temporary folder beside ``destination`` to fill; on success it takes ``destination``'s place in one step.

    Killed at any moment, either the old folder or the whole new one is at ``destination``: the files are flushed to the disk,
    then Linux's ``renameat2(RENAME_EXCHANGE)`` swaps the two folders. Where the file system or platform has no such call,
    the old folder is renamed away first; a kill between the two renames leaves it as ``.<name>.<random>.edgecnn-old``, and
    the next writer puts it back. What killed writers leave behind, the next writer of the same destination removes.

    Missing parents are created, and removed again on failure. A symbolic link is followed.

    Args:
        destination: the folder to write.
        force: replace an existing folder; without it, an existing one is an error.
        foreign: says why an existing, non-empty folder must not be replaced, or "" if it may be: replacing deletes it. By
            default no folder with anything in it is replaced.

    Raises:
        OutputError: the destination exists, must not be replaced, or cannot be written (permission, full disk).
    """
    asked, destination = destination, Path(os.path.realpath(destination))
    try:
        _clean(destination)
        check_replaceable(asked, destination, force, foreign)
        created = _make_parents(destination.parent)
        try:
            temporary, lock = _temporary_sibling(destination)
            try:
                yield temporary
                _sync(temporary)
                _install(asked, temporary, destination, force, foreign)
            except OutputError as error:
                raise OutputError(str(error).replace(str(temporary), str(asked))) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)  # what was not installed, or the old folder
                os.close(lock)
        except BaseException:
            for parent in created:
                with suppress(OSError):
                    parent.rmdir()
            raise
    except OSError as error:
        raise OutputError(f"cannot write {asked}: {error.strerror or error}") from error


_PART, _OLD = ".edgecnn-part", ".edgecnn-old"
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # linux/fcntl.h, linux/fs.h


def check_replaceable(asked: Path, destination: Path, force: bool, foreign: Callable[[Path], str] | None) -> None:
    """Refuse a destination that cannot be written, and an existing one, unless it may be replaced. Raises OutputError."""
    try:
        parent = next((folder for folder in destination.absolute().parents if folder.exists()), destination)
        exists = destination.exists()
    except OSError as error:
        raise OutputError(f"cannot write {asked}: {error.strerror or error}") from error
    if not parent.is_dir():
        raise OutputError(f"cannot write {asked}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {asked}: Permission denied in {parent}")
    if not exists:
        return
    if not destination.is_dir():
        raise OutputError(f"{asked} exists and is not a folder: choose another destination")
    if not force:
        raise OutputError(f"{asked} exists: choose another destination, or replace it with --force (force=True)")
    if any(destination.iterdir()):
        reason = foreign(destination) if foreign else "it is not empty"
        if reason:
            raise OutputError(f"{asked} will not be replaced, even by force: {reason}")


def _make_parents(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that were created, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing


def _temporary_sibling(destination: Path) -> tuple[Path, int]:
    """Create a folder beside ``destination`` and lock it, so that other writers know that its own is alive."""
    while True:
        path = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}{_PART}")
        path.mkdir()
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            with suppress(FileNotFoundError):
                if _lock(handle) is not False and os.path.samestat(os.fstat(handle), path.stat()):
                    return path, handle
            os.close(handle)
        # Another writer took it for a leftover in the moment before it was locked: try again.


def _lock(handle: int) -> bool | None:
    """Lock a folder for this process: False if another holds it, None where there are no locks.

    The lock ends with the process, however it ends.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _clean(destination: Path) -> None:
    """Remove what killed writers of ``destination`` left beside it, having put back an old folder that is nowhere else."""
    start = f".{destination.name}."
    if not destination.parent.is_dir():
        return
    for path in sorted(destination.parent.iterdir()):
        random = path.name.removeprefix(start).removesuffix(_PART).removesuffix(_OLD)
        named = path.name in (f"{start}{random}{_PART}", f"{start}{random}{_OLD}")
        if not named or not re.fullmatch(r"[0-9a-f]{16}", random) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if not _lock(handle):
                    continue  # its writer is alive, or we cannot tell
                if path.name.endswith(_OLD) and not destination.exists():
                    path.rename(destination)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _sync(folder: Path) -> None:
    """Flush a folder's files and directories to the disk."""
    for root, _, files in os.walk(folder):
        for path in (*(Path(root, name) for name in files), Path(root)):
            _sync_one(path)


def _sync_one(path: Path) -> None:
    """Flush one file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _install(
    asked: Path, temporary: Path, destination: Path, force: bool, foreign: Callable[[Path], str] | None
) -> None:
    """Put ``temporary`` in the place of ``destination``; an old folder is then at ``temporary``."""
    check_replaceable(asked, destination, force, foreign)  # it may have appeared while we wrote
    exists = destination.exists()
    flag = _RENAME_EXCHANGE if exists else _RENAME_NOREPLACE
    try:
        done = _renameat2(temporary, destination, flag)
    except FileExistsError:
        raise OutputError(f"{asked} was created by someone else in the meantime") from None
    if not done and exists:
        aside = temporary.with_name(temporary.name.removesuffix(_PART) + _OLD)
        destination.rename(aside)
        temporary.rename(destination)
        shutil.rmtree(aside, ignore_errors=True)
    elif not done:
        temporary.rename(destination)
    with suppress(OSError):
        _sync_one(destination.parent)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Call Linux's renameat2; False where the kernel, the C library or the file system lacks it."""
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
