"""A matrix into a table: every combination, once; failures are rows; what is there and true is kept."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_tools import NET, Cli
from scale_data import stop_after, write_pictures
from tiny_bundle import write_model, write_tiny

from edgecnn.errors import DataError, UserError
from edgecnn.pack import VariantContents
from edgecnn.parity.evaluate import evaluate
from edgecnn.runtime import OpenVinoOptions, OrtOptions
from edgecnn.scale.executor import ExecutorConfig
from edgecnn.scale.sweep import SweepConfig, SweepResult, sweep
from edgecnn.scale.table import read_rows

BACKENDS = {"onnxruntime": OrtOptions(), "openvino": OpenVinoOptions()}
HERE = ExecutorConfig(workers=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose int8-cpu gives NaN."""
    folder = tmp_path_factory.mktemp("other")
    models = write_model(folder, "fp32"), write_model(folder, "int8-cpu", bias=float("nan"))
    return write_tiny(folder, variants=[VariantContents(model=m, verified=True) for m in models], golden={}).path


def run(targets: list[Any], data: Path, table: Path, **options: Any) -> SweepResult:
    progress = options.pop("progress", lambda *_: None)
    config = SweepConfig(**{"backends": BACKENDS, "executor": HERE, **options})
    return sweep(targets, data, table, config, progress=progress)


def pairs(result: SweepResult) -> list[tuple[str, str]]:
    return [(row["variant"], row["backend"]) for row in result.rows]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_combination_has_a_row_with_what_evaluate_finds(
    bundle: Path, data: Path, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"results{suffix}"
    result = run([bundle], data, table, limit=100)
    assert result
    assert pairs(result) == [(v, b) for b in BACKENDS for v in ("fp32", "int8-cpu")]
    assert read_rows(table) == list(result.rows)
    for backend, options in (("onnxruntime", OrtOptions(threads=1)), ("openvino", OpenVinoOptions(threads=1))):
        found = evaluate(bundle, data, options=options, limit=100)
        for score in found.variants:
            (row,) = [row for row in result.rows if (row["variant"], row["backend"]) == (score.variant, backend)]
            assert {name: row[name] for name in score.to_json()} == score.to_json()
            assert (row["unreadable"], row["model"], row["weights"]) == (found.unreadable, "tiny", "IMAGENET1K_V1")
            assert row["images_per_s"] > 0
            assert f'"{backend}":' in row["versions"]


def test_rows_that_are_still_true_are_kept_and_others_done_again(
    bundle: Path, data: Path, tmp_path: Path, cache: Path
) -> None:
    table = tmp_path / "results.csv"
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    pictures = write_pictures(tmp_path / "data", 20)
    first = run([copy], pictures, table, variants=("fp32",))
    more = run([copy], pictures, table)
    assert (first.kept, more.kept, len(more.rows)) == (0, 2, 4)
    assert [row for row in more.rows if row["variant"] == "fp32"] == list(first.rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "joblib", None)
        assert run([copy], pictures, table).rows == more.rows, "nothing is started for what is known"
    shutil.copy(pictures / "00010.png", pictures / "00001.png")
    again = run([copy], pictures, table)
    assert again.kept == 0
    assert len(read_rows(table)) == 4, "replaced"
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + "\n")
    assert run([copy], pictures, table).kept == 0
    assert run([copy], pictures, table, backends={"onnxruntime": OrtOptions(threads=2)}).kept == 0
    assert list(cache.glob("evaluations/*")) == []


def test_a_failing_combination_is_a_row_and_does_not_stop_the_others(
    bundle: Path, other: Path, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "results.csv"
    result = run([other, tmp_path / "absent", bundle], data, table, limit=70, variants=("fp32", "int8-cpu", "int4"))
    assert not result
    errors = {(Path(row["bundle"]), row["variant"], row["backend"]): row["error"] for row in result.rows}
    assert len(errors) == 18
    for backend in BACKENDS:
        assert (
            errors[other, "fp32", backend]
            == errors[bundle, "fp32", backend]
            == errors[bundle, "int8-cpu", backend]
            == ""
        )
        assert "NaN or infinity" in errors[other, "int8-cpu", backend]
        assert "no variant 'int4'; it has fp32, int8-cpu" in errors[bundle, "int4", backend]
        assert "absent" in errors[tmp_path / "absent", "fp32", backend]
    again = run([other], data, table, limit=70)
    assert (again.kept, len(again.rows)) == (2, 4), "what failed is tried again"


def test_a_folder_that_is_not_there_is_an_error_before_any_row(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder at"):
        sweep([bundle], tmp_path / "nowhere", tmp_path / "t.csv", SweepConfig(backends={"onnxruntime": OrtOptions()}))
    assert not (tmp_path / "t.csv").exists()


def test_no_engine_and_no_labels_that_fit_are_errors_of_their_rows(bundle: Path, data: Path, tmp_path: Path) -> None:
    from edgecnn.runtime import TensorRtOptions

    result = run([bundle], data, tmp_path / "a.csv", backends={"tensorrt": TensorRtOptions(), **BACKENDS}, limit=10)
    assert [bool(row["error"]) for row in result.rows] == [True, False, False, False, False]
    assert "no engine for tensorrt" in result.rows[0]["error"]
    strange = write_pictures(tmp_path / "strange", 3)
    (strange / "labels.csv").write_text("file,label\n00000.png,unicorn\n")
    result = run([bundle], strange, tmp_path / "b.csv")
    assert ["'unicorn' is neither" in row["error"] for row in result.rows] == [True, True]


def test_an_interrupted_sweep_goes_on(bundle: Path, data: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    with pytest.raises(KeyboardInterrupt):
        run([bundle], data, table, progress=stop_after(2))
    assert not table.exists()
    seen: list[int] = []
    run([bundle], data, table, progress=lambda _, done, total: seen.append(done))
    assert seen[0] == 2
    whole = run([bundle], data, tmp_path / "whole.csv")
    timeless = [
        [{**row, "finished": "", "images_per_s": 0} for row in read_rows(one)]
        for one in (table, tmp_path / "whole.csv")
    ]
    assert timeless[0] == timeless[1]
    assert whole


def test_a_backend_that_there_is_not() -> None:
    with pytest.raises(UserError, match="at least one backend"):
        SweepConfig(backends={})
    with pytest.raises(UserError, match="backend 'tflite' is not one of onnxruntime, openvino, tensorrt, tensorrt-rtx"):
        SweepConfig(backends={"tflite": OrtOptions()})


def test_a_model_is_exported_first_and_once(data: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(NET)
    result = run([f"{net}:absent"], data, tmp_path / "results.csv", limit=5)
    assert not result
    assert all("absent" in row["error"] and row["model"] == f"{net}:absent" for row in result.rows)


def test_the_command(cli: Cli, bundle: Path, other: Path, data: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    arguments = ("sweep", "--data", data, "-o", table, "--limit", "40", "--workers", "1", "--variants", "fp32,int8-cpu")
    result = cli(*arguments, bundle, "--json")
    assert (result.code, result.err) == (0, "")
    assert [row["images"] + row["unreadable"] for row in result.document["rows"]] == [40] * 4
    assert (result.document["table"], result.document["kept"]) == (str(table), 0)
    result = cli(*arguments, bundle, other, "--backends", "onnxruntime")
    assert result.code == 1
    assert "results.csv: 4 rows, 2 of them kept from before" in result.out
    assert result.err.count("warning: ") == 1
    assert "NaN or infinity" in result.err
    with table.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    assert "'cuda' is not one of onnxruntime, openvino" in cli(*arguments, bundle, "--backends", "cuda").failed(2)
    assert "a table ends in" in cli("sweep", bundle, "--data", data, "-o", tmp_path / "x.txt").failed(2)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_comparison_takes_its_accuracy_from_a_table(
    cli: Cli, bundle: Path, data: Path, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"results{suffix}"
    arguments = ("sweep", "--data", data, "-o", table, "--limit", "40", "--workers", "1", "--variants", "fp32,int8-cpu")
    rows = cli(*arguments, bundle, "--backends", "onnxruntime", "--json").document["rows"]
    quick = ("--seconds", "0.1", "--threads", "1", "--backend", "onnxruntime")
    result = cli("compare", bundle, "--table", table, *quick, "--json")
    assert (result.code, result.err) == (0, "")
    for row, point in zip(rows, result.document["points"], strict=True):
        assert point["name"].endswith(f" {row['variant']}")
        assert (point["top1"], point["accuracy"]) == (row["top1"], f"measured on {row['images']} images")
        assert point["source"] == f"{data}, on onnxruntime"
    assert "Give --data or --table, not both." in cli("compare", bundle, "--table", table, "--data", data).failed(2)
    assert "--table goes with bundles." in cli("compare", "--zoo", "--table", table).failed(2)
    assert "there is no table at" in cli("compare", bundle, "--table", tmp_path / "none.csv").failed()
