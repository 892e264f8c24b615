"""Labelled pictures: folders of classes, labels.csv, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parity_bundles import LABELS, save_pictures

from edgecnn.errors import DataError
from edgecnn.parity.labelled import LabelledImages, read_labelled


def found(images: LabelledImages, folder: Path) -> list[tuple[str, int | None]]:
    """Return (path within the folder, class) of each."""
    return [(file.relative_to(folder).as_posix(), label) for file, label in images]


def write_csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def test_sub_folders_named_as_labels(tmp_path: Path) -> None:
    for name in ("class_c", "Class A"):  # as file systems and people write them
        save_pictures(tmp_path / name / "deeper", 2)
    images = read_labelled(tmp_path, 10, LABELS)
    assert images.how == "sub-folders named as labels"
    assert len(images) == 4
    assert found(images, tmp_path) == [
        ("Class A/deeper/00.png", 0),
        ("Class A/deeper/01.png", 0),
        ("class_c/deeper/00.png", 2),
        ("class_c/deeper/01.png", 2),
    ]


def test_as_many_sub_folders_as_classes_stand_in_sorted_order(tmp_path: Path) -> None:
    for name in ("n02", "n01", "n03"):
        save_pictures(tmp_path / name, 1)
    images = read_labelled(tmp_path, 3)
    assert images.how == "3 sub-folders in sorted order"
    assert found(images, tmp_path) == [("n01/00.png", 0), ("n02/00.png", 1), ("n03/00.png", 2)]


def test_sub_folders_named_by_class_index(tmp_path: Path) -> None:
    for name in ("7", "03"):
        save_pictures(tmp_path / name, 1)
    images = read_labelled(tmp_path, 10, LABELS)
    assert images.how == "sub-folders named by class index"
    assert found(images, tmp_path) == [("03/00.png", 3), ("7/00.png", 7)]


def test_numbers_whose_order_is_not_their_value_are_ambiguous(tmp_path: Path) -> None:
    for index in range(11):
        save_pictures(tmp_path / str(index), 1)
    with pytest.raises(DataError, match=r"10 before 2.*labels\.csv with columns file,label"):
        read_labelled(tmp_path, 11)


def test_pictures_alone_have_no_classes(tmp_path: Path) -> None:
    save_pictures(tmp_path, 2)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    images = read_labelled(tmp_path, 10, LABELS)
    assert images.how.startswith("no labels:")
    assert images.classes == ()
    assert found(images, tmp_path) == [("00.png", None), ("01.png", None)]


def test_labels_csv_takes_indices_and_names(tmp_path: Path) -> None:
    save_pictures(tmp_path / "x", 3)
    write_csv(tmp_path, "label,file,remark\n4,x/02.png,\nClass_B,x/00.png,a cat\n")
    images = read_labelled(tmp_path, 10, LABELS)
    assert images.how == "labels.csv"
    assert found(images, tmp_path) == [("x/02.png", 4), ("x/00.png", 1)], "in the file's order, and only what it lists"


def test_labels_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    (tmp_path / "labels.csv").write_bytes("\ufefffile,label\r\n00.png, 9 \r\n".encode())
    assert found(read_labelled(tmp_path, 10), tmp_path) == [("00.png", 9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nabsent.png,1\n", r"labels.csv line 2: no file 'absent.png' in"),
        ("file,label\n00.png,1\n,2\n", r"line 3: no file ''"),
        ("file,label\n00.png,zebra\n", r"line 2: 'zebra' is neither a class index nor a label of the model"),
        ("file,label\n00.png,10\n", r"line 2: class 10 of a model with 10 classes \(0 to 9\)"),
        ("file,label\n00.png\n", r"line 2: '' is neither"),
        ("path,class\n00.png,1\n", r"needs the columns file,label; it has 'path,class'"),
        ("", r"needs the columns file,label; it has ''"),
        ("file,label\n", r"lists no pictures"),
    ],
)
def test_a_labels_csv_that_does_not_fit_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    save_pictures(tmp_path, 1)
    with pytest.raises(DataError, match=message):
        read_labelled(write_csv(tmp_path, text), 10, LABELS)


def test_a_labels_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        read_labelled(tmp_path, 10)


def test_a_name_that_two_classes_have_is_no_label(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    write_csv(tmp_path, "file,label\n00.png,crane\n")
    with pytest.raises(DataError, match="'crane' is neither"):
        read_labelled(tmp_path, 3, ("crane", "Crane", "dog"))


def test_unknown_sub_folders_are_named_with_what_to_do(tmp_path: Path) -> None:
    for name in ("class a", "zebra"):
        save_pictures(tmp_path / name, 1)
    with pytest.raises(DataError, match=r"2 sub-folders for 10 classes, and 'zebra' is no label of the model: rename"):
        read_labelled(tmp_path, 10, LABELS)


def test_some_of_imagenets_ids_have_no_positions(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        save_pictures(tmp_path / name, 1)
    with pytest.raises(DataError, match="2 of ImageNet's 1000 ids, whose positions only the complete set has"):
        read_labelled(tmp_path, 1000)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder at"):
        read_labelled(tmp_path / "absent", 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*expected a sub-folder a class"):
        read_labelled(tmp_path, 10)


def test_a_class_that_cannot_be_read_is_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0", "1"):
        save_pictures(tmp_path / name / "deeper", 1)
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder) == tmp_path / "1" / "deeper":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"1/deeper cannot be read: Permission denied"):
        read_labelled(tmp_path, 10)


def test_a_limit_spreads_over_the_classes(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        save_pictures(tmp_path / name, 4)
    images = read_labelled(tmp_path, 10)
    assert images.limited(None) is images
    assert images.limited(12) is images
    assert found(images.limited(3), tmp_path) == [("0/00.png", 0), ("1/00.png", 1), ("2/00.png", 2)]
    assert images.limited(3).how == images.how
    with pytest.raises(DataError, match="a limit of 0 images leaves none"):
        images.limited(0)
