"""Pictures with their class, from a folder: for measuring accuracy."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.calib.data import SUFFIXES
from edgecnn.errors import DataError

__all__ = ["LABELS_CSV", "LabelledImages", "read_labelled"]

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
        if limit is None or limit >= len(self.files):
            return self
        if limit < 1:
            raise DataError(f"a limit of {limit} images leaves none")
        picked = [position * len(self.files) // limit for position in range(limit)]
        classes = tuple(self.classes[i] for i in picked) if self.classes else ()
        return LabelledImages(tuple(self.files[i] for i in picked), classes, self.how)


def read_labelled(folder: Path, num_classes: int, labels: Sequence[str] = ()) -> LabelledImages:
    """Find the pictures of a folder and their classes.

    * with ``labels.csv`` (columns ``file,label``): the files it lists, relative to the folder; the label is a class index or name;
    * with pictures in sub-folders: a sub-folder a class, at any depth below it. Its class is, in this order, the label of that
      name; the sub-folder's position in sorted order if there are as many sub-folders as classes; the number that is its
      name; for 1000 classes and ImageNet's ids (``n01440764``) only a complete set has positions;
    * otherwise the folder's own pictures, without classes.

    Args:
        folder: to read.
        num_classes: of the model.
        labels: its class names, if they have any.

    Raises:
        DataError: no folder or no pictures there, or classes that do not fit the model; the message says what to do.
    """
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}")
    if (folder / LABELS_CSV).is_file():
        return _from_csv(folder, num_classes, labels)
    own = _pictures(folder.iterdir())
    if own:
        return LabelledImages(own, (), f"no labels: {folder} has neither {LABELS_CSV} nor a sub-folder a class")
    groups = {
        sub.name: found for sub in sorted(folder.iterdir()) if sub.is_dir() and (found := _pictures(sub.rglob("*")))
    }
    if not groups:
        raise DataError(
            f"no pictures in {folder}: expected a sub-folder a class, or pictures and a {LABELS_CSV} with columns file,label"
        )
    indices, how = _classes_of(list(groups), num_classes, labels, folder)
    files = tuple(file for found in groups.values() for file in found)
    classes = tuple(indices[name] for name, found in groups.items() for _ in found)
    return LabelledImages(files, classes, how)


def _pictures(paths: Iterator[Path]) -> tuple[Path, ...]:
    """Return the picture files, sorted."""
    return tuple(
        sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    )


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


def _from_csv(folder: Path, num_classes: int, labels: Sequence[str]) -> LabelledImages:
    """Read ``labels.csv``."""
    path = folder / LABELS_CSV
    by_name = _by_name(labels)
    files, classes = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} needs the columns file,label; it has {','.join(reader.fieldnames or ())!r}")
            for row in reader:
                where = f"{path} line {reader.line_num}"
                file = folder / (row["file"] or "")
                if not row["file"] or not file.is_file():
                    raise DataError(f"{where}: no file {row['file']!r} in {folder}")
                files.append(file)
                classes.append(_class_index(row["label"] or "", num_classes, by_name, where))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not files:
        raise DataError(f"{path} lists no pictures")
    return LabelledImages(tuple(files), tuple(classes), LABELS_CSV)


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
