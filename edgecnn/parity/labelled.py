"""Pictures with their class, from a folder: for measuring accuracy."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.calib.data import SUFFIXES
from edgecnn.errors import DataError

__all__ = ["LABELS_CSV", "Entry", "LabelledImages", "Row", "evenly", "fingerprint", "read_labelled", "scan"]

Row = tuple[str, int | None]
"""A picture: its file, and its class where that is known."""

Entry = tuple[int, str, int | None]
"""A picture as it is found: group (its sub-folder's or line's number), path within the folder, class. They are in order when sorted."""

LABELS_CSV = "labels.csv"
_WNID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class LabelledImages:
    """Picture files and their classes.

    Attributes:
        files: in a fixed order.
        classes: index of each file's class, or empty when there are no labels.
        how: where the classes came from, for the reader.
    """

    files: tuple[Path, ...]
    classes: tuple[int, ...]
    how: str

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Path, int | None]]:
        """Yield (file, class), the class None where there are no labels."""
        for position, file in enumerate(self.files):
            yield file, self.classes[position] if self.classes else None

    def limited(self, limit: int | None) -> LabelledImages:
        """Return at most ``limit`` of the files, spread evenly: the first ones of a sorted folder are all of one class."""
        picked = evenly(len(self.files), limit)
        if len(picked) == len(self.files):
            return self
        classes = tuple(self.classes[i] for i in picked) if self.classes else ()
        return LabelledImages(tuple(self.files[i] for i in picked), classes, self.how)

    def rows(self, start: int, stop: int) -> list[Row]:
        """Return the pictures at some positions."""
        classes = self.classes[start:stop] if self.classes else [None] * len(self.files)
        return [(str(file), label) for file, label in zip(self.files[start:stop], classes, strict=False)]

    def fingerprint(self) -> str:
        """Return the sha256 of the listing; see :func:`fingerprint`."""
        return fingerprint(((str(file), label) for file, label in self), "")


def evenly(count: int, limit: int | None) -> Sequence[int]:
    """Return at most ``limit`` of ``count`` positions, spread evenly. Raises DataError for a limit below 1."""
    if limit is None or limit >= count:
        return range(count)
    if limit < 1:
        raise DataError(f"a limit of {limit} images leaves none")
    return [position * count // limit for position in range(limit)]


def fingerprint(rows: Iterable[Row], folder: str) -> str:
    """Return the sha256 over path, class, bytes and time of change of every picture in order: other contents, another number.

    Args:
        rows: the pictures; paths within ``folder``, or whole ones.
        folder: where they lie, which is no part of it.
    """
    digest = hashlib.sha256()
    for file, label in rows:
        try:
            status = (Path(folder) / file).stat()
            facts = (label, status.st_size, status.st_mtime_ns)
        except OSError:
            facts = (label, -1, -1)  # counted as unreadable when its turn comes
        digest.update(os.fsencode(file) + f"\0{facts}\n".encode())
    return digest.hexdigest()


def read_labelled(folder: Path, num_classes: int, labels: Sequence[str] = ()) -> LabelledImages:
    """Find the pictures of a folder and their classes: :func:`scan`, all in memory. Raises DataError."""
    how, entries = scan(folder, num_classes, labels)
    found = sorted(entries, key=lambda entry: entry[:2])
    classes = tuple(label for _, _, label in found if label is not None)
    return LabelledImages(tuple(folder / file for _, file, _ in found), classes, how)


def scan(folder: Path, num_classes: int, labels: Sequence[str] = ()) -> tuple[str, Iterator[Entry]]:
    """Find the pictures of a folder and their classes, one after the other.

    * with ``labels.csv`` (columns ``file,label``): the files it lists, relative to the folder; the label is a class index or name;
    * with pictures in sub-folders: a sub-folder a class, at any depth below it. Its class is, in this order, the label of that
      name; the sub-folder's position in sorted order if there are as many sub-folders as classes; the number that is its
      name; for 1000 classes and ImageNet's ids (``n01440764``) only a complete set has positions;
    * otherwise the folder's own pictures, without classes.

    Args:
        folder: to read.
        num_classes: of the model.
        labels: its class names, if they have any.

    Returns:
        Where the classes come from, in words, and the pictures, which have to be sorted.

    Raises:
        DataError: no folder or no pictures there, or classes that do not fit the model; the message says what to do. What a line of
            ``labels.csv`` has wrong is raised when its turn comes.
    """
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}")
    if (folder / LABELS_CSV).is_file():
        return LABELS_CSV, _from_csv(folder, num_classes, labels)
    if _any(_pictures(folder, deep=False)):
        how = f"no labels: {folder} has neither {LABELS_CSV} nor a sub-folder a class"
        return how, ((0, file, None) for file in _pictures(folder, deep=False))
    names = [sub.name for sub in sorted(folder.iterdir()) if sub.is_dir() and _any(_pictures(sub, deep=True))]
    if not names:
        raise DataError(
            f"no pictures in {folder}: expected a sub-folder a class, or pictures and a {LABELS_CSV} with columns file,label"
        )
    indices, how = _classes_of(names, num_classes, labels, folder)
    return how, (
        (group, f"{name}/{file}", indices[name])
        for group, name in enumerate(names)
        for file in _pictures(folder / name, deep=True)
    )


def _any(found: Iterator[str]) -> bool:
    """Whether there is a first one."""
    return next(found, None) is not None


def _pictures(folder: Path, *, deep: bool) -> Iterator[str]:
    """Yield the picture files, in no order, as paths within the folder; ``deep``: also those of its sub-folders.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if deep:
                        yield from (f"{entry.name}/{file}" for file in _pictures(folder / entry.name, deep=True))
                elif _is_picture(entry.name) and entry.is_file():
                    yield entry.name
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error


def _is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")  # noqa: PTH122 -- a million times


def _classes_of(
    names: Sequence[str], num_classes: int, labels: Sequence[str], folder: Path
) -> tuple[Mapping[str, int], str]:
    """Return the class index of each sub-folder, and how it was found."""
    by_name = _by_name(labels)
    if by_name and all(_plain(name) in by_name for name in names):
        return {name: by_name[_plain(name)] for name in names}, "sub-folders named as labels"
    numbers = {name: int(name) for name in names if name.isdecimal()}
    if len(names) == num_classes:
        positions = {name: position for position, name in enumerate(sorted(names))}
        if len(numbers) == len(names) and numbers != positions:
            raise DataError(
                f"the sub-folders of {folder} are numbers whose sorted order is not their value (10 before 2): say what is "
                f"meant by a {LABELS_CSV} with columns file,label"
            )
        return positions, f"{num_classes} sub-folders in sorted order"
    if len(numbers) == len(names) and all(value < num_classes for value in numbers.values()):
        return numbers, "sub-folders named by class index"
    strange = next((name for name in names if _plain(name) not in by_name), names[0])
    what = f"{len(names)} sub-folders for {num_classes} classes"
    if all(_WNID.fullmatch(name) for name in names) and num_classes == IMAGENET_CLASSES:
        what = f"{len(names)} of ImageNet's 1000 ids, whose positions only the complete set has"
    raise DataError(
        f"{folder} has {what}, and {strange!r} is no label of the model: rename the sub-folders to labels or class indices, or "
        f"put all pictures under one folder with a {LABELS_CSV} (columns file,label)"
    )


def _from_csv(folder: Path, num_classes: int, labels: Sequence[str]) -> Iterator[Entry]:
    """Read ``labels.csv``, line by line."""
    path = folder / LABELS_CSV
    by_name = _by_name(labels)
    found = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} needs the columns file,label; it has {','.join(reader.fieldnames or ())!r}")
            for found, row in enumerate(reader, start=1):
                where = f"{path} line {reader.line_num}"
                file = row["file"] or ""
                if not file or not (folder / file).is_file():
                    raise DataError(f"{where}: no file {row['file']!r} in {folder}")
                yield found, file, _class_index(row["label"] or "", num_classes, by_name, where)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not found:
        raise DataError(f"{path} lists no pictures")


def _class_index(label: str, num_classes: int, by_name: Mapping[str, int], where: str) -> int:
    """Return the class that a label of the file means."""
    text = label.strip()
    if text.isdecimal():
        if int(text) < num_classes:
            return int(text)
        raise DataError(f"{where}: class {text} of a model with {num_classes} classes (0 to {num_classes - 1})")
    if _plain(text) in by_name:
        return by_name[_plain(text)]
    raise DataError(f"{where}: {label!r} is neither a class index nor a label of the model")


def _by_name(labels: Sequence[str]) -> dict[str, int]:
    """Return label -> index for the labels that only one class has (ImageNet has two cranes)."""
    plain = [_plain(label) for label in labels]
    return {label: index for index, label in enumerate(plain) if plain.count(label) == 1}


def _plain(name: str) -> str:
    """Return a label in the form in which folder names are compared with it."""
    return " ".join(name.replace("_", " ").casefold().split())
