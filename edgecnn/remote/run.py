"""A verb of edgecnn on a device: send what it reads, run it, bring back what it made."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edgecnn.artifacts import Engine
from edgecnn.errors import BundleError, OutputError, RemoteError, UserError
from edgecnn.pack import RESULTS, add_engines, add_results
from edgecnn.progress import LINE, LINES, Progress, silent
from edgecnn.remote.bootstrap import interpreter
from edgecnn.remote.inventory import Device
from edgecnn.remote.job import Ended, Job
from edgecnn.remote.sync import Sent, Tree, bundle_tree, path_tree, send
from edgecnn.remote.transport import Link
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.manifest import MANIFEST, Manifest
from edgecnn.writing import check_writable, replace_directory, write_json

__all__ = ["File", "Listener", "Outcome", "Prepared", "prepare", "run_on"]

ON_DEVICE = "device:"
KEPT = ("build", "verify", "bench", "evaluate")
"""Verbs whose document becomes a file of the bundle."""


@dataclass(frozen=True, kw_only=True)
class File:
    """An argument that names a file.

    Attributes:
        path: here; ``device:PATH`` is one of the device.
        prefix: what stands before it in the argument (``--data=``).
        role: ``bundle``; ``in``: read; ``out``: written; ``both``: read if it is there, and written.
    """

    path: Path
    prefix: str = ""
    role: Literal["bundle", "in", "out", "both"] = "in"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A command whose files were read and hashed, for any number of devices.

    Attributes:
        verb: of edgecnn. ``arguments``: of it. ``trees``: index of an argument -> what it names. ``bundles``: those among them.
    """

    verb: str
    arguments: tuple[str | File, ...]
    trees: Mapping[int, Tree] = field(default_factory=dict)
    bundles: Mapping[int, Bundle] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told what happens: ``say`` a line, ``progress`` a step. Devices in parallel call them from their own threads."""

    say: Callable[[str], object] = lambda _: None
    progress: Progress = silent


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a device made of a command.

    Attributes:
        device: where it ran. ``document``: what it printed as JSON, its paths those of this machine; None where it printed none.
        sent: what was sent. ``ended``: how it ended. ``reconnected``: how often the connection broke.
        notes: what could not be brought back, and why.
    """

    device: Device
    document: dict[str, Any] | None
    sent: Sent
    ended: Ended
    reconnected: int
    notes: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The command's exit code."""
        return self.ended.code

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "device": self.device.name,
            "address": self.device.address,
            **self.ended.to_json(),
            "reconnected": self.reconnected,
            "sent": self.sent.to_json(),
            "notes": list(self.notes),
            "result": self.document,
        }


def prepare(verb: str, arguments: Sequence[str | File], *, progress: Progress = silent) -> Prepared:
    """Read and hash the files that a command names.

    Raises:
        BundleError: a bundle that is none, or was changed.
        DataError: a file that is not there.
        OutputError: a place that a result cannot be written to.
    """
    trees: dict[int, Tree] = {}
    bundles: dict[int, Bundle] = {}
    for index, argument in enumerate(arguments):
        if isinstance(argument, str) or str(argument.path).startswith(ON_DEVICE):
            continue
        path = argument.path
        if argument.role in ("out", "both"):
            check_writable(path)
        if argument.role == "bundle":
            bundles[index], trees[index] = bundle_tree(path)
        elif argument.role == "in" or (argument.role == "both" and path.exists()):
            trees[index] = path_tree(path, copy=argument.role == "both", progress=progress)
    return Prepared(verb=verb, arguments=tuple(arguments), trees=trees, bundles=bundles)


def run_on(
    device: Device,
    prepared: Prepared,
    *,
    listener: Listener = Listener(),
    cancelled: threading.Event | None = None,
    own_copy: bool = False,
    store: threading.Lock | None = None,
) -> Outcome:
    """Run a command on a device, and put what it made into the bundle: engines, and its document below ``results/``.

    Args:
        device: where.
        prepared: what :func:`prepare` returned.
        listener: told what is sent and what the command says.
        cancelled: set by another thread to stop.
        own_copy: one of many: engines go into ``BUNDLE-DEVICE`` beside the bundle, which holds one engine of a variant and flavour;
            written files get the device's name, too.
        store: held while the bundle is written, where several devices bring something back.

    Raises:
        RemoteError: the device cannot be reached, has no room, cannot install edgecnn, or lost the job.
        UserError: the device's interpreter has no edgecnn.
    """
    lines = _Lines(device, listener)
    with Link(device, say=listener.say, cancelled=cancelled) as link:
        python = interpreter(link, progress=listener.progress)
        sent = send(link, prepared.trees.values(), progress=listener.progress)
        listener.say(f"{device.name}: {sent}")
        with Job(link) as job:
            there = _places(job, prepared)
            lines.back = _back(prepared, there)
            command = [python, "-m", "edgecnn", prepared.verb, *_command(prepared, there)]
            ended = job.run(
                [command],
                trees=_layout(prepared),
                env={LINES: "1"},
                listen=lines,
            )
            document = job.document()
            translated = None if document is None else _translate(document, lines.back)
            with _alone(job, store or threading.Lock()):
                notes = _bring_back(job, prepared, device, own_copy=own_copy)
                outcome = Outcome(
                    device=device, document=translated, sent=sent, ended=ended, reconnected=link.reconnected, notes=notes
                )  # fmt: skip
                return _keep(outcome, prepared)


@contextmanager
def _alone(job: Job, store: threading.Lock) -> Iterator[None]:
    """Hold a lock, keeping the device's job for as long as that takes to get."""
    while not store.acquire(timeout=1.0):
        job.keep()
    try:
        yield
    finally:
        store.release()


class _Lines:
    """What a job says on stderr: lines for the user with the names of this machine's files, and steps of progress."""

    def __init__(self, device: Device, listener: Listener) -> None:
        """Hold who is told."""
        self.back: dict[str, str] = {}
        self._name, self._listener = device.name, listener

    def __call__(self, line: str) -> None:
        """Pass a line on."""
        if not line.startswith(LINE):
            text = line
            for there, here in self.back.items():
                text = text.replace(there, here)
            self._listener.say(f"{self._name}: {text}")
            return
        try:
            step, done, total = json.loads(line.removeprefix(LINE))
            self._listener.progress(str(step), int(done), int(total))
        except (ValueError, TypeError):
            return


def _place(index: int, name: str) -> str:
    """Return where an argument's file is in a job's folder: each in a folder of its own, under its own name."""
    return f"{index}/{name}"


def _layout(prepared: Prepared) -> list[tuple[str, Tree]]:
    """Return what a job finds where: files, and empty folders for those that it writes."""
    found = [(_place(index, tree.name), tree) for index, tree in prepared.trees.items()]
    for index, argument in enumerate(prepared.arguments):
        if isinstance(argument, File) and argument.role in ("out", "both") and index not in prepared.trees:
            found.append((str(index), Tree(name="", files={}, folders=("",))))
    return found


def _places(job: Job, prepared: Prepared) -> dict[int, str]:
    """Return the path on the device of every argument that is a file of this machine."""
    found = {}
    for index, argument in enumerate(prepared.arguments):
        if isinstance(argument, File) and not str(argument.path).startswith(ON_DEVICE):
            tree = prepared.trees.get(index)
            found[index] = f"{job.work}/{_place(index, tree.name if tree else argument.path.name)}"
    return found


def _back(prepared: Prepared, there: Mapping[int, str]) -> dict[str, str]:
    """Return the device's paths, and what the user called each."""
    return {
        there[index]: str(argument.path)
        for index, argument in enumerate(prepared.arguments)
        if isinstance(argument, File) and index in there
    }


def _command(prepared: Prepared, there: Mapping[int, str]) -> list[str]:
    """Return the arguments as the device's command gets them."""
    words = []
    for index, argument in enumerate(prepared.arguments):
        if isinstance(argument, str):
            words.append(_mentioned(argument, prepared, there))
        else:
            words.append(argument.prefix + there.get(index, str(argument.path).removeprefix(ON_DEVICE)))
    return words


def _mentioned(word: str, prepared: Prepared, there: Mapping[int, str]) -> str:
    """Return a word with the device's path where it is a bundle's, or begins with one (``--compare A:int8 B@openvino``)."""
    for index, bundle in prepared.bundles.items():
        path = str(bundle.path)
        if word == path or word.startswith((f"{path}:", f"{path}@")):
            return there[index] + word[len(path) :]
    return word


def _translate(data: Any, back: Mapping[str, str]) -> Any:
    """Return a document with the paths of this machine in place of the device's."""
    if isinstance(data, dict):
        return {key: _translate(value, back) for key, value in data.items()}
    if isinstance(data, list):
        return [_translate(value, back) for value in data]
    if isinstance(data, str):
        for there, here in back.items():
            data = data.replace(there, here)
    return data


def _bring_back(job: Job, prepared: Prepared, device: Device, *, own_copy: bool) -> tuple[str, ...]:
    """Fetch written files and engines; return what could not be stored."""
    notes = []
    for index, argument in enumerate(prepared.arguments):
        if isinstance(argument, str) or str(argument.path).startswith(ON_DEVICE):
            continue
        try:
            if argument.role in ("out", "both"):
                tree = prepared.trees.get(index)
                place = _place(index, tree.name if tree else argument.path.name)
                path = _named_after(argument.path, device) if own_copy else argument.path
                _fetch_file(job, place, path, tree)
            elif argument.role == "bundle":
                notes += _fetch_engines(job, index, prepared, device, own_copy=own_copy)
        except (OutputError, BundleError) as error:
            notes.append(f"{device.name}: {error}")
    return tuple(notes)


def _named_after(path: Path, device: Device) -> Path:
    """Return the device's own name of a file that every device of a fleet writes: ``table-orin.csv``."""
    return path.with_name(f"{path.stem}-{device.name}{path.suffix}")


def _fetch_file(job: Job, place: str, to: Path, before: Tree | None) -> None:
    """Fetch a file that the job wrote, unless it is what was sent."""
    for sha, size in job.files([place], keep=True).values():
        if before is None or before.files[""].sha256 != sha:
            job.fetch(place, sha, size, to)


def _fetch_engines(job: Job, index: int, prepared: Prepared, device: Device, *, own_copy: bool) -> list[str]:
    """Put the engines that the job built into the bundle, or into the device's own copy of it."""
    bundle, tree = prepared.bundles[index], prepared.trees[index]
    place = _place(index, tree.name)
    now = job.files([f"{place}/{MANIFEST}"])
    if not now:
        raise RemoteError(f"{device.name}: the bundle is gone there")
    ((sha, size),) = now.values()
    if sha == tree.files[MANIFEST].sha256:
        return []
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch:
        manifest = Path(scratch, MANIFEST)
        job.fetch(f"{place}/{MANIFEST}", sha, size, manifest)
        theirs = Manifest.parse(manifest.read_bytes())
        engines: list[tuple[str, Engine]] = []
        for name, record in theirs.engines.items():
            file = theirs.files[record.file]
            if bundle.manifest.engines.get(name) == record and tree.files[record.file].sha256 == file.sha256:
                continue
            found = job.files([f"{place}/{record.file}"], keep=True)
            if found.get(f"{place}/{record.file}") != (file.sha256, file.bytes):
                raise RemoteError(f"{device.name}: {record.file} is not what the device's manifest says")
            path = Path(scratch, f"{len(engines)}.plan")
            job.fetch(f"{place}/{record.file}", file.sha256, file.bytes, path)
            engine = Engine(path=path, sha256=file.sha256, bytes=file.bytes, facts=record.facts, lineage=record.lineage)
            engines.append((record.variant, engine))
        if not engines:
            return []
        target = _copy_of(bundle, device) if own_copy else Bundle.open(bundle.path, allow_unverified=True)
        add_engines(target, engines, notes=[note for note in theirs.notes if note not in bundle.manifest.notes])
    return [f"{device.name}: its engines are in {target.path}"] if own_copy else []


def _copy_of(bundle: Bundle, device: Device) -> Bundle:
    """Return the device's own copy of a bundle, made where there is none. Raises OutputError where something else is in its place."""
    path = bundle.path.resolve()
    copy = path.with_name(f"{path.name}-{device.name}")
    if copy.exists():
        try:
            found = Bundle.open(copy, allow_unverified=True)
        except UserError as error:
            raise OutputError(f"{copy} exists and is no copy of {path}: {error}") from None
        graphs = {name: bundle.manifest.files[variant.file].sha256 for name, variant in bundle.variants.items()}
        theirs = {name: found.manifest.files[variant.file].sha256 for name, variant in found.variants.items()}
        if graphs != theirs:
            raise OutputError(f"{copy} exists and holds other graphs than {path}: move it away")
        return found
    files = {name: one for name, one in bundle.manifest.files.items() if not name.startswith(f"{RESULTS}/")}
    with replace_directory(copy) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / name, folder / name)
        write_json(folder / MANIFEST, replace(bundle.manifest, files=files).to_json())
    return Bundle.open(copy, allow_unverified=True)


def _keep(outcome: Outcome, prepared: Prepared) -> Outcome:
    """Put a document into the bundles that it is about."""
    if prepared.verb not in KEPT or outcome.document is None or "error" in outcome.document:
        return outcome
    kept = {**outcome.to_json(), "verb": prepared.verb, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    notes = list(outcome.notes)
    for bundle in prepared.bundles.values():
        try:
            opened = Bundle.open(bundle.path, allow_unverified=True)
            add_results(opened, {f"{outcome.device.name}/{prepared.verb}.json": kept})
        except (OutputError, BundleError) as error:
            notes.append(f"{outcome.device.name}: the result is not in the bundle: {error}")
    return replace(outcome, notes=tuple(notes))
