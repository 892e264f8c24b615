"""``--on``: a command there is the command here, and what it makes comes back into the bundle."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sshd
from cli_tools import Cli
from PIL import Image
from tiny_bundle import LABELS, photos

from edgecnn.artifacts import sha256_file
from edgecnn.remote.inventory import Inventory
from edgecnn.remote.sync import bundle_tree, send
from edgecnn.remote.transport import Link
from edgecnn.runtime import Bundle

ON = ("--on", "edge")


def without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return a document without what is measured anew each time."""
    return {key: value for key, value in document.items() if key not in keys}


def test_predict_there_is_predict_here(server: sshd.Server, cli: Cli, bundle: Path, photo: Path) -> None:
    here = cli("predict", "--json", "--top", "2", "--", bundle, photo)
    there = cli("predict", "--json", "--top", "2", *ON, "--", bundle, photo)
    assert there.code == 0, there.err
    assert there.document == here.document  # the names of files are those of this machine, too
    assert there.document["results"][0]["image"] == str(photo)
    assert "edge: sent " in there.err
    text = cli("predict", *ON, "--top=2", "--", bundle, photo)
    assert text.out == cli("predict", "--top=2", "--", bundle, photo).out
    assert "nothing to send" in text.err
    assert server.leftovers() == []
    assert Bundle.open(bundle).manifest.files.keys() == {path.name for path in bundle.iterdir()} - {"manifest.json"}


def test_what_an_image_or_option_does_wrong_there_is_said_here(
    server: sshd.Server, cli: Cli, bundle: Path, photo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad; rm.png"
    bad.write_bytes(b"no picture")
    result = cli("predict", *ON, "--json", "--", bundle, bad, photo)
    assert result.code == 1
    assert result.document["failed"][0]["image"] == str(bad)
    assert f"edge: error: {bad}" in result.err
    unknown = cli("predict", *ON, "--variant", "--help; x", "--json", "--", bundle, photo)
    assert unknown.code == 1
    assert f"{bundle} has no variant '--help; x'" in unknown.document["error"]["message"]
    assert "No such option" in cli("predict", *ON, "--tpo", "1", "--", bundle, photo).failed(2)
    assert "is not there" in cli("predict", *ON, "--", bundle, tmp_path / "none.png").failed()
    assert server.leftovers() == []


def test_a_bad_bundle_is_refused_here(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    (bundle / "parity.json").write_text("{}")
    assert "parity.json has 2 bytes" in cli("verify", *ON, "--", bundle).failed()
    assert not server.cache.exists()


def test_verify_there_and_its_result_in_the_bundle(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    result = cli("verify", *ON, "--json", "--", bundle)
    assert result.code == 0, result.err
    assert result.document["passed"] is True
    assert result.document["bundle"] == str(bundle)
    opened = Bundle.open(bundle)
    name = "results/edge/verify.json"
    assert opened.manifest.files[name].sha256 == sha256_file(bundle / name)
    kept = json.loads((bundle / name).read_text())
    assert kept["result"] == result.document
    assert (kept["verb"], kept["device"], kept["code"]) == ("verify", "edge", 0)
    assert kept["seconds"] > 0
    assert kept["peak_rss_mb"] > 20
    assert set(kept["sensors"]) == {"before", "after"}
    again = cli("verify", *ON, "--", bundle)
    assert "edge: nothing to send, all 6 files are there" in again.err
    assert "verified: preprocess, int8-cpu agree with fp32" in again.out


def test_evaluate_there_with_a_folder_of_classes(server: sshd.Server, cli: Cli, bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "it's data"
    for number, label in enumerate(LABELS):
        (data / f"{number} {label}").mkdir(parents=True)
        for count, pixels in enumerate(photos(2)):
            Image.fromarray(pixels).save(data / f"{number} {label}" / f"{count}.png")
    here = cli("evaluate", bundle, "--data", data, "--json")
    there = cli("evaluate", bundle, "--data", data, *ON, "--json")
    assert there.code == here.code == 0, there.err
    volatile = ("seconds", "images_per_second")
    assert without(there.document, *volatile) == without(here.document, *volatile)


def test_build_there_and_its_engine_in_the_bundle(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = cli("build", bundle, *ON, "--target", "tensorrt-rtx", "--json")
    assert result.code == 0, result.err
    engine = result.document["engines"]["fp32"]
    opened = Bundle.open(bundle)
    record = opened.manifest.engines["fp32.tensorrt-rtx"]
    assert record.facts.passed
    assert sha256_file(bundle / record.file) == engine["sha256"] == opened.manifest.files[record.file].sha256
    assert json.loads((bundle / "results/edge/build.json").read_text())["result"]["passed"] is True
    with Link(*Inventory.read().find("edge")) as link:
        assert send(link, [bundle_tree(bundle)[1]]).files == 1  # the manifest: the engine has stayed there
    assert server.leftovers() == []


def test_a_cut_in_the_middle_of_a_command(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    cuts: list[int] = []

    def cut() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not list(server.cache.glob("jobs/*/err")):
            time.sleep(0.01)
        cuts.append(server.cut())

    thread = threading.Thread(target=cut)
    thread.start()
    result = cli("verify", *ON, "--json", "--", bundle)
    thread.join()
    assert cuts[0] >= 1
    assert result.code == 0, result.err
    assert result.document["passed"] is True
    assert "edge: connected again" in result.err
    assert json.loads((bundle / "results/edge/verify.json").read_text())["reconnected"] >= 1
    assert server.leftovers() == []


def test_progress_comes_here(server: sshd.Server, bundle: Path) -> None:
    from edgecnn.remote.run import File, Listener, prepare, run_on

    steps: list[tuple[str, int, int]] = []
    said: list[str] = []
    prepared = prepare("verify", ["--json", "--", File(path=bundle, role="bundle")])
    listener = Listener(say=said.append, progress=lambda step, done, total: steps.append((step, done, total)))
    outcome = run_on(*Inventory.read().find("edge"), prepared, listener=listener)
    assert outcome.code == 0
    assert [step for step in steps if step[0] not in ("hash", "send")]
    assert all("\x1e" not in line for line in said)


def test_an_interpreter_without_edgecnn(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    line = cli("verify", *ON, "--on-python", "/usr/bin/python3", "--", bundle).failed()
    assert "/usr/bin/python3 has no edgecnn: install it there" in line or "edge: " in line


def test_bench_there_and_its_table_here(server: sshd.Server, cli: Cli, bundle: Path, tmp_path: Path) -> None:
    sheet, page = tmp_path / "table.csv", tmp_path / "page.html"
    options = ("--count", "20", "--warmup", "50ms", "--no-roofline", "--no-telemetry")
    pair = ("--compare", f"{bundle}:fp32", f"{bundle}:int8-cpu@onnxruntime")
    result = cli("bench", *ON, *options, *pair, f"--csv={sheet}", f"--html={page}", "--", bundle)
    assert result.code == 0, result.err
    assert "p50 ms" in result.out
    assert len(sheet.read_text().splitlines()) >= 3
    assert "<html" in page.read_text()
    kept = json.loads((bundle / "results/edge/bench.json").read_text())["result"]
    assert [run["label"] for run in kept["runs"]]
    assert kept["comparisons"][0]["text"] in result.out.replace("\n", " ")
