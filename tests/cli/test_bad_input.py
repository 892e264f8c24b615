"""Bad input ends in one clear line and an exit code, without a traceback and with nothing left behind."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cli_tools import SIZE, Cli, Result, listing
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_bundle import edit_manifest, photos, write_tiny

from edgecnn.errors import EdgecnnError


@pytest.fixture(scope="module")
def place(net: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of everything that can be wrong."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(net, folder / "net.py")
    shutil.copytree(tiny, folder / "bundle")
    (folder / "empty").mkdir()
    (folder / "file").write_text("a file, not a folder")
    (folder / "two.txt").write_text("cat\ndog\n")
    _write_checkpoints(folder)
    _write_pictures(folder)
    _write_graphs(folder)
    for name in ("changed", "cut", "future"):
        write_tiny(folder, name)
    model = folder / "changed" / "model.fp32.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    (folder / "cut" / "manifest.json").write_text((folder / "cut" / "manifest.json").read_text()[:100])
    edit_manifest(folder / "future", lambda manifest: {**manifest, "schema": 99})
    return folder


def _write_checkpoints(folder: Path) -> None:
    (folder / "garbage.pth").write_bytes(os.urandom(300))
    (folder / "resnet18-f37072fd.pth").write_bytes(b"not what was published")
    torch.save(torch.nn.Linear(2, 2), folder / "object.pth")
    torch.save({"fc.weight": torch.zeros(7, 3)}, folder / "other.pth")
    (folder / "cut.pth").write_bytes((folder / "other.pth").read_bytes()[:-100])
    (folder / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")


def _write_pictures(folder: Path) -> None:
    corrupt = folder / "corrupt"
    corrupt.mkdir()
    (corrupt / "zero.jpg").write_bytes(b"")
    (corrupt / "text.png").write_text("no picture")
    (corrupt / "noise.jpg").write_bytes(b"\xff\xd8\xff" + os.urandom(200))
    good = folder / "good"
    good.mkdir()
    for index, pixels in enumerate(photos(2)):
        Image.fromarray(pixels).save(good / f"{index}.png")
    Image.fromarray(photos(1)[0]).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:300])
    np.savez(folder / "cut.npz", input=np.zeros((2, 3, 32, 32), np.float32))
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:-30])
    for name, rows in (("strange-label", "file,label\n0.png,unicorn\n"), ("no-columns", "picture,class\n0.png,1\n")):
        shutil.copytree(good, folder / name)
        (folder / name / "labels.csv").write_text(rows)


def _write_graphs(folder: Path) -> None:
    (folder / "zero.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("no graph")
    shape = ["batch", 3, 32, 32]
    rank = helper.make_node("Relu", ["input"], ["logits"])
    _save(folder / "rank.onnx", [rank], None, None)
    weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["conv"], name="conv"),
        helper.make_node("Magic", ["conv"], ["logits"], name="magic", domain="my.own"),
    ]
    _save(folder / "operator.onnx", nodes, shape, ["batch", 8, 30, 30], weight)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[str | int] | None,
    out: list[str | int] | None,
    *weights: onnx.TensorProto,
) -> None:
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, out)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.own", 1)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


EXPORT = f"export {{place}}/net.py:build {' '.join(SIZE)} -o {{out}}"
CASES = {
    "unknown model": ("export resnet5O -o {out}", r"no model is named 'resnet5O'. Did you mean resnet50"),
    "unknown weights": ("export resnet18 --weights V9 -o {out}", "no weights 'V9'. Published: IMAGENET1K_V1"),
    "missing checkpoint": ("export resnet18 --weights {place}/no.pth -o {out}", r"no weights file at .*/no\.pth"),
    "unreadable checkpoint": ("export resnet18 --weights {place}/garbage.pth -o {out}", "not a readable checkpoint"),
    "cut checkpoint": ("export resnet18 --weights {place}/cut.pth -o {out}", "not a readable checkpoint"),
    "cut safetensors": ("export resnet18 --weights {place}/cut.safetensors -o {out}", "not a readable safetensors"),
    "pickled objects": ("export resnet18 --weights {place}/object.pth -o {out}", "could run code when read"),
    "other network's checkpoint": ("export resnet18 --weights {place}/other.pth -o {out}", "does not fit the network"),
    "wrong hash": (
        "export resnet18 --weights {place}/resnet18-f37072fd.pth -o {out}",
        "its sha256 begins [0-9a-f]{8}, published is f37072fd",
    ),
    "huge seed": ("export resnet18 --weights random:12345678901234567890 -o {out}", "seed has 20 digits, at most 18"),
    "mean that is no number": ("export {place}/net.py:build --mean nan,0,0 -o {out}", "must be finite numbers"),
    "file without a function": (f"export {{place}}/net.py {' '.join(SIZE)} -o {{out}}", "names no function: write"),
    "no such file of a network": ("export {place}/no.py:build -o {out}", r"there is no file .*/no\.py"),
    "no such function": ("export {place}/net.py:bild -o {out}", "bild does not exist; the module defines build"),
    "network that raises": ("export {place}/net.py:Failing -o {out}", "RuntimeError: no such; luck"),
    "operator torch.onnx lacks": (
        f"export {{place}}/net.py:Untranslatable {' '.join(SIZE)} -o {{out}}",
        "torch.onnx cannot export net_Untranslatable: .*linalg_eig",
    ),
    "network that looks at its values": (
        f"export {{place}}/net.py:Deciding {' '.join(SIZE)} -o {{out}}",
        "torch.onnx cannot export net_Deciding: .*data-dependent",
    ),
    "too few labels": (EXPORT + " --labels {place}/two.txt", "2 lines, .* but the model has 5 classes"),
    "output below a file": ("export resnet18 --weights random -o {place}/file/out", "file is not a folder"),
    "output is a file": ("export resnet18 --weights random -o {place}/file", "exists and is not a folder"),
    "empty calibration folder": (EXPORT + " --int8 --calib {place}/empty", "holds no images"),
    "missing calibration folder": (EXPORT + " --int8 --calib {place}/no", "no is not there"),
    "corrupt calibration images": (EXPORT + " --int8 --calib {place}/corrupt", "none of 3 images can be read"),
    "quantize: empty calibration folder": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/empty -o {out}",
        "holds no images",
    ),
    "quantize: corrupt images": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/corrupt -o {out}",
        "none of 3 images can be read",
    ),
    "quantize: output below a file": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/good -o {place}/file/out",
        "cannot write .*file/out: ",
    ),
    "quantize: output in /proc": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/good -o /proc/out",
        "cannot write /proc/out: ",
    ),
    "quantize: output folder missing": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/good -o {place}/no/out",
        "cannot write .*no/out: ",
    ),
    "quantize: damaged tensors": (
        "quantize {place}/bundle/model.fp32.onnx --calib {place}/cut.npz -o {out}",
        r"cut\.npz cannot be read as \.npy or \.npz: File is not a zip file",
    ),
    "zero-byte onnx": ("quantize {place}/zero.onnx --calib {place}/good -o {out}", r"zero\.onnx is empty \(0 bytes\)"),
    "text as onnx": ("quantize {place}/text.onnx --calib {place}/good -o {out}", "not a readable ONNX model"),
    "dynamic rank": ("quantize {place}/rank.onnx --calib {place}/good -o {out}", r"rank\.onnx: tensor 'input'"),
    "unsupported operator": (
        "quantize {place}/operator.onnx --calib {place}/good -o {out}",
        r"operator my\.own::Magic is not implemented",
    ),
    "inspect: zero-byte onnx": ("inspect {place}/zero.onnx", r"zero\.onnx is empty \(0 bytes\)"),
    "inspect: text as onnx": ("inspect {place}/text.onnx", "not a readable ONNX model"),
    "inspect: dynamic rank": ("inspect {place}/rank.onnx", "export the model again with fixed ranks"),
    "inspect: nothing there": ("inspect {place}/no", "there is nothing at"),
    "inspect: no bundle": ("inspect {place}/empty", "is not a bundle: it has no readable manifest.json"),
    "no bundle": ("predict {place}/no {place}/good/0.png", "no bundle at .*: not there"),
    "changed bundle": ("predict {place}/changed {place}/good/0.png", r"model\.fp32\.onnx was changed after"),
    "cut manifest": ("verify {place}/cut", "manifest"),
    "bundle of a newer edgecnn": ("evaluate {place}/future --data {place}/good", "schema"),
    "unknown variant": ("predict {place}/bundle {place}/good/0.png --variant int4", "no variant 'int4'; it has fp32"),
    "missing provider": ("predict {place}/bundle {place}/good/0.png --provider cuda", "CUDAExecutionProvider"),
    "corrupt picture": ("predict {place}/bundle {place}/corrupt/noise.jpg", r"noise\.jpg: "),
    "zero-byte picture": ("predict {place}/bundle {place}/corrupt/zero.jpg", r"zero\.jpg: empty \(0 bytes\)"),
    "truncated picture": ("predict {place}/bundle {place}/cut.jpg", r"cut\.jpg: cannot be decoded"),
    "missing picture": ("predict {place}/bundle {place}/no.png", r"no\.png: no such file"),
    "evaluate: corrupt pictures": ("evaluate {place}/bundle --data {place}/corrupt", "none of the 3 pictures can be"),
    "evaluate: empty folder": ("evaluate {place}/bundle --data {place}/empty", "no pictures in"),
    "evaluate: no folder": ("evaluate {place}/bundle --data {place}/no", "no folder at"),
    "evaluate: strange label": ("evaluate {place}/bundle --data {place}/strange-label", "'unicorn' is neither"),
    "evaluate: no columns": ("evaluate {place}/bundle --data {place}/no-columns", "needs the columns file,label"),
}
USAGE = {
    "unknown command": ("exprot resnet18", "There is no command 'exprot'. Did you mean export"),
    "missing argument": ("predict bundle", "Missing argument 'IMAGE...'"),
    "unknown option": ("doctor --jsno", "No such option"),
    "impossible size": ("export net.py:build --input-size 32x32", "such as 3x224x224"),
    "impossible mean": ("export net.py:build --mean red,green,blue", "comma-separated list of numbers"),
    "negative threads": ("verify bundle --threads -1", "-1 is not in the range"),
    "unknown method": ("quantize graph.onnx -o out.onnx --calib photos --method best", "'best' is not one of"),
    "parameter of a method": (
        "export resnet18 --int8 --method percentile:7",
        "percentile 7.0 is not between 50 and 100",
    ),
    "impossible opset": ("export resnet18 --opset 3", "opset 3 is not between"),
    "budget without INT8": ("export resnet18 --max-drop 1", "an accuracy budget is for INT8"),
    "gate without INT8": ("export resnet18 --gate latency", "the latency gate is for INT8"),
    "size of a zoo model": ("export resnet18 --input-size 3x32x32", "the zoo's models bring their own"),
}


def temporary(folder: Path) -> set[Path]:
    """Return what is left of temporary files, but for the folder of its own cache that torch makes when it is imported."""
    return {path for path in listing(folder) if not path.name.startswith("torchinductor_")}


def arguments(line: str, place: Path, out: Path) -> list[str]:
    """Fill in a case's paths."""
    return [word.format(place=place, out=out) for word in line.split()]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, place: Path, own_folders: Path, tmp_path: Path, case: str
) -> None:
    line, message = CASES[case]
    before = listing(place)
    words = arguments(line, place, tmp_path / "out")
    found = cli(*words).failed()
    assert re.search(message, found), found
    assert "unexpected" not in found
    assert listing(place) == before
    assert listing(tmp_path) == set()
    assert temporary(own_folders) == set()


@pytest.mark.parametrize("case", ["unknown model", "empty calibration folder", "zero-byte onnx", "changed bundle"])
def test_under_json_the_error_is_the_one_document(cli: Cli, place: Path, tmp_path: Path, case: str) -> None:
    line, _ = CASES[case]
    words = arguments(line, place, tmp_path / "out")
    result = cli(*words, "--json")
    assert result.code == 1
    assert set(result.document) == {"error"}
    assert set(result.document["error"]) == {"type", "message"}
    assert result.err == f"error: {result.document['error']['message']}\n"


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line_and_2(cli: Cli, case: str) -> None:
    line, message = USAGE[case]
    assert message in cli(*line.split()).failed(2)
    result = cli(*line.split(), "--json")
    assert result.code == 2
    assert message in result.document["error"]["message"]


def test_a_usage_error_reads_as_sentences(cli: Cli) -> None:
    """click ends some messages without a full stop, and lists choices on lines of their own."""
    missing = cli("build", "bundle").err
    assert (
        missing
        == "error: Missing option '--target'. Choose from: tensorrt, tensorrt-rtx. See 'edgecnn build --help'.\n"
    )


def test_debug_shows_the_traceback(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgecnnError, match="empty"):
        cli("inspect", place / "zero.onnx", "--debug")
    monkeypatch.setenv("EDGECNN_DEBUG", "1")
    with pytest.raises(EdgecnnError, match="empty"):
        cli("inspect", place / "zero.onnx")


def test_a_fault_of_our_own_is_one_line_too(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("edgecnn.inspection.inspect_onnx", broken)
    line = cli("inspect", place / "zero.onnx").failed()
    assert line == "error: unexpected ZeroDivisionError: two (run again with --debug for the traceback)"


def test_a_published_file_in_the_cache_that_is_not_what_was_published(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights" / "resnet18-f37072fd.pth"
    file.parent.mkdir()
    file.write_bytes(b"cut off")
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path))
    line = cli("export", "resnet18", "--weights", "IMAGENET1K_V1", "-o", tmp_path / "out").failed()
    assert f"{file} is not the published file" in line
    assert "delete it to download it again" in line
    assert listing(tmp_path) == {file.parent, file}


def test_a_cache_that_cannot_be_written(
    cli: Cli, place: Path, own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(place / "file"))
    model = place / "bundle" / "model.fp32.onnx"
    line = cli("quantize", model, "--calib", place / "good", "-o", tmp_path / "out").failed()
    assert f"cannot write {place / 'file' / 'calibration'}: Not a directory; EDGECNN_CACHE names another folder" in line
    assert listing(tmp_path) == temporary(own_folders) == set()


def test_a_machine_without_room_for_temporary_files(
    cli: Cli, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no stage has words for is still the system's own reason and place, not a fault of ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    line = cli(*arguments(EXPORT, place, tmp_path / "out")).failed()
    assert re.fullmatch(rf"error: {re.escape(str(tmp_path / 'none'))}/edgecnn-\w+: No such file or directory", line)
    assert listing(tmp_path) == set()


def test_a_full_disk_at_the_end_of_an_export(
    cli: Cli, place: Path, own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def full(handle: int) -> None:
        if ".edgecnn-part" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    line = cli(*arguments(EXPORT, place, tmp_path / "new" / "out")).failed()
    assert line.endswith(": No space left on device")
    assert f"cannot write {tmp_path / 'new' / 'out'}" in line
    assert listing(tmp_path) == set()
    assert temporary(own_folders) == set()


DRIVER = """
import os, resource, signal, sys, time
from pathlib import Path
from edgecnn.cli.__main__ import run

def stop(step):
    if step == os.environ.get("STOP"):
        Path(os.environ["MARK"]).touch()
        time.sleep(60)

if limit := int(os.environ.get("LIMIT", "0")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def sync(handle, sync=os.fsync):
    if ".edgecnn-part" in os.readlink(f"/proc/self/fd/{handle}"):
        stop("pack")
    sync(handle)

os.fsync = sync
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
sys.stop = stop
sys.exit(run(sys.argv[1:]))
"""
STOPPING = """
import sys, torch
from torch import nn

class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        sys.stop("build")

    def forward(self, x):
        if torch.compiler.is_exporting():
            sys.stop("export")
        return self.fc(self.conv(x).mean((2, 3)))
"""


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str]) -> Result:
    """Wait for a command's end."""
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)


@pytest.mark.parametrize("step", ["build", "export", "pack"])
def test_ctrl_c_is_130_and_leaves_nothing(own_folders: Path, tmp_path: Path, step: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "net.py").write_text(STOPPING)
    words = ["export", f"{tmp_path / 'net.py'}:build", *SIZE, "-o", str(work / "new" / "out")]
    with start(words, STOP=step, MARK=str(tmp_path / "mark")) as process:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "mark").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert bool(listing(work)) == (step == "pack")  # the bundle is then being written beside its destination
            process.send_signal(signal.SIGINT)
            result = finish(process)
        finally:
            process.kill()
    assert result.failed(130) == "error: interrupted"
    assert listing(work) == set()
    assert temporary(own_folders) == set()


def test_a_disk_that_takes_no_more_bytes(place: Path, own_folders: Path, tmp_path: Path) -> None:
    with start(arguments(EXPORT, place, tmp_path / "out"), LIMIT="100") as process:
        line = finish(process).failed()
    assert line.endswith(": File too large")
    assert listing(tmp_path) == set()
    assert temporary(own_folders) == set()


@pytest.mark.parametrize(
    "line",
    [EXPORT, "quantize {place}/bundle/model.fp32.onnx --calib {place}/good -o {out}"],
    ids=["export", "quantize"],
)
def test_a_folder_without_write_permission(place: Path, own_folders: Path, tmp_path: Path, line: str) -> None:
    """Root may write everywhere, so the command runs without that capability."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    words = arguments(line, place, locked / "out")
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=_drop_write_everywhere,
    )
    found = Result(done.returncode, done.stdout, done.stderr).failed()
    assert f"cannot write {locked / 'out'}: " in found
    assert "ermission" in found
    assert listing(tmp_path) == {locked}
    assert temporary(own_folders) == set()


def _drop_write_everywhere() -> None:
    """Take CAP_DAC_OVERRIDE (1) from what programs started from here may have: prctl(PR_CAPBSET_DROP = 24)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
