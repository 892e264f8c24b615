"""What comes back: files that a command writes, documents in a bundle, nothing that leads elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import sshd
from cli_tools import Cli, listing
from test_transport import device
from tiny_bundle import write_tiny

from edgecnn.artifacts import sha256_file
from edgecnn.errors import BundlePathError, OutputError, RemoteError
from edgecnn.pack import add_results, pack
from edgecnn.remote.run import File, prepare, run_on
from edgecnn.runtime import Bundle

FAKE = """#!{python}
import json, os, sys
if sys.argv[1:3] != ["-m", "edgecnn"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
words = sys.argv[4:]
named = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
for name, mode, text in (("--html", "w", "page"), ("--timing-cache", "a", " and more")):
    if name in named:
        with open(named[name], mode) as stream:
            stream.write(text)
if os.environ.get("SPOIL"):
    os.unlink(os.path.join(words[-1], "manifest.json"))
print(os.environ.get("SAY") or json.dumps({{"words": words}}))
sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Return an interpreter whose edgecnn writes the files that it is given."""
    path = tmp_path / "fake python"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    return path


def run(server: sshd.Server, fake: Path, bundle: Path, folder: Path, **env: str) -> dict[str, object]:
    """Run the fake edgecnn, and return its document."""
    page, cache = File(path=folder / "page $(x).html", prefix="--html=", role="out"), folder / "orin 'cache'"
    arguments = [
        page, File(path=cache, prefix="--timing-cache=", role="both"), "--compare", f"{bundle}:int8", "fp32", "--json", "--",
        File(path=bundle, role="bundle"),
    ]  # fmt: skip
    outcome = run_on(device(server, python=str(fake), env=env), prepare("bench", arguments))
    assert outcome.notes == ()
    return outcome.document or {}


def test_written_files_come_back(server: sshd.Server, fake: Path, bundle: Path, tmp_path: Path) -> None:
    document = run(server, fake, bundle, tmp_path)
    page, cache = tmp_path / "page $(x).html", tmp_path / "orin 'cache'"
    assert document["words"] == [
        f"--html={page}",
        f"--timing-cache={cache}",
        "--compare",
        f"{bundle}:int8",
        "fp32",
        "--json",
        "--",
        str(bundle),
    ]  # fmt: skip -- they were the device's, and are told as this machine's
    assert page.read_text() == "page"
    assert cache.read_text() == " and more"
    page.unlink()
    run(server, fake, bundle, tmp_path)
    assert page.read_text() == "page"
    assert cache.read_text() == " and more and more"  # it went there, and came back
    assert json.loads((bundle / "results/edge/bench.json").read_text())["result"] == document
    assert server.leftovers() == []


def test_files_of_many_devices_have_their_names(server: sshd.Server, fake: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "t.cache").write_text("old")
    arguments = [
        File(path=tmp_path / "page.html", prefix="--html=", role="out"),
        File(path=tmp_path / "t.cache", prefix="--timing-cache=", role="both"), "--json", "--", File(path=bundle, role="bundle"),
    ]  # fmt: skip
    run_on(device(server, python=str(fake)), prepare("bench", arguments), own_copy=True)
    assert (tmp_path / "page-edge.html").read_text() == "page"
    assert (tmp_path / "t-edge.cache").read_text() == "old and more"
    assert (tmp_path / "t.cache").read_text() == "old"
    assert not (tmp_path / "page.html").exists()


def test_exit_codes_and_paths_of_the_device(
    server: sshd.Server, fake: Path, cli: Cli, bundle: Path, tmp_path: Path
) -> None:
    server.inventory(tmp_path / "config", python=str(fake), extra="env = { CODE = '3' }\n")
    result = cli("evaluate", "--on", "edge", "--data=device:/far/$(data)", "--limit", "7", "--json", "--", bundle)
    assert result.code == 3
    assert result.document == {"words": ["--data=/far/$(data)", "--limit=7", "--json", "--", str(bundle)]}


def test_a_bundle_with_files_of_ones_own_is_left_alone(
    server: sshd.Server, fake: Path, cli: Cli, bundle: Path, tmp_path: Path
) -> None:
    server.inventory(tmp_path / "config", python=str(fake))
    (bundle / "notes.txt").write_text("mine")
    before = {path: sha256_file(path) for path in listing(bundle)}
    result = cli("bench", "--on", "edge", "--json", "--", bundle)
    assert (result.code, list(result.document)) == (0, ["words"])
    assert "warning: edge: the result is not in the bundle" in result.err
    assert {path: sha256_file(path) for path in listing(bundle)} == before


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(OutputError, match="is not a folder"):
        prepare("bench", [File(path=tmp_path / "none" / "page.html", role="out"), File(path=bundle, role="bundle")])


def test_a_device_that_spoils_its_bundle(server: sshd.Server, fake: Path, bundle: Path, tmp_path: Path) -> None:
    before = {path: sha256_file(path) for path in listing(bundle)}
    with pytest.raises(RemoteError, match="the bundle is gone there"):
        run(server, fake, bundle, tmp_path, SPOIL="1")
    assert {path: sha256_file(path) for path in listing(bundle)} == before


@pytest.mark.parametrize("said", ["no json", '{"a": NaN}'])
def test_what_is_no_document_is_none(server: sshd.Server, fake: Path, bundle: Path, tmp_path: Path, said: str) -> None:
    assert run(server, fake, bundle, tmp_path, SAY=said) == {}
    assert not (bundle / "results").exists()


def test_results_are_files_of_the_bundle(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path)
    add_results(bundle, {"orin/verify.json": {"passed": False}})
    added = add_results(Bundle.open(bundle.path), {"orin/verify.json": {"passed": True}, "pi/bench.json": {"é": 1}})
    assert json.loads((bundle.path / "results/orin/verify.json").read_text()) == {"passed": True}
    assert {"results/orin/verify.json", "results/pi/bench.json"} <= set(added.manifest.files)
    with pytest.raises(BundlePathError):
        add_results(added, {"../../x.json": {}})
    (bundle.path / "results/orin/verify.json").write_text("{}")
    with pytest.raises(Exception, match="bytes, and had"):
        Bundle.open(bundle.path)


def test_a_bundle_with_results_may_be_exported_anew(tmp_path: Path) -> None:
    from tiny_bundle import contents

    bundle = add_results(write_tiny(tmp_path), {"orin/verify.json": {"passed": True}})
    again = pack(bundle.path, contents(tmp_path), force=True)
    assert "results/orin/verify.json" not in again.manifest.files
    assert not (bundle.path / "results").exists()
