"""Many devices at once: a table at the end, the worst exit code, and one dead device stops nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sshd
from cli_tools import Cli

from edgecnn.runtime import Bundle


@pytest.fixture
def fleet(server: sshd.Server, tmp_path: Path) -> sshd.Server:
    """Return the sshd, with two living devices and a dead one in an inventory."""
    import sys

    twin = "".join(
        f"[devices.{name}]\nurl = '{host}'\npython = {sshd.toml(sys.executable)}\nbase_python = {sshd.toml(sys.executable)}\n"
        f"root = {sshd.toml(server.folder / (name + ' cache'))}\n"
        for name, host in (("twin", "twin"), ("gone", "dead"))
    )
    server.inventory(
        tmp_path / "config", extra=f"{twin}[fleets]\nall = ['edge', 'gone', 'twin']\ngood = ['edge', 'twin']\n"
    )
    return server


def test_a_fleet_with_a_dead_device(fleet: sshd.Server, cli: Cli, bundle: Path) -> None:
    result = cli("verify", "--on", "fleet:all", "--", bundle)
    assert result.code == 1
    lines = result.out.splitlines()[-5:]
    assert [line.split()[:2] for line in lines if line.split()[:1] in (["edge"], ["twin"])] == [
        ["edge", "0"],
        ["twin", "0"],
    ]
    assert "nothing answers on that port" in result.out
    for name in ("edge", "twin"):
        kept = json.loads((bundle / f"results/{name}/verify.json").read_text())
        assert kept["result"]["passed"] is True
    Bundle.open(bundle)


def test_a_document_for_each_device(fleet: sshd.Server, cli: Cli, bundle: Path, photo: Path) -> None:
    result = cli("predict", "--on", "fleet:all", "--json", "--", bundle, photo)
    assert (result.code, result.document["code"]) == (1, 1)
    devices = result.document["devices"]
    assert list(devices) == ["edge", "gone", "twin"]
    assert "nothing answers on that port" in devices["gone"]["error"]["message"]
    assert devices["edge"]["result"] == devices["twin"]["result"]
    assert devices["edge"]["result"]["results"][0]["image"] == str(photo)


def test_engines_of_a_fleet_go_into_a_copy_for_each_device(fleet: sshd.Server, cli: Cli, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = cli("build", "--on", "fleet:good", "--target", "tensorrt-rtx", "--", bundle)
    assert result.code == 0, result.err
    assert not Bundle.open(bundle).manifest.engines
    for name in ("edge", "twin"):
        copy = bundle.with_name(f"{bundle.name}-{name}")
        assert list(Bundle.open(copy).manifest.engines) == ["fp32.tensorrt-rtx"]
        assert f"warning: {name}: its engines are in {copy}" in result.err


def test_devices_are_listed_and_probed(fleet: sshd.Server, cli: Cli) -> None:
    listed = cli("devices")
    assert listed.code == 0
    assert "ssh://dead" in listed.out
    document = cli("devices", "--json").document
    assert [one["name"] for one in document["devices"]] == ["edge", "twin", "gone"]
    assert document["fleets"]["good"] == ["edge", "twin"]
    probed = cli("devices", "--probe", "--json")
    assert probed.code == 1
    facts = {one["name"]: one["probe"] for one in probed.document["devices"]}
    assert "nothing answers" in facts["gone"]["error"]["message"]
    import platform

    import onnxruntime

    assert facts["edge"]["arch"] == platform.machine()
    assert facts["edge"]["packages"]["onnxruntime"] == onnxruntime.__version__
    assert facts["edge"]["free_mb"] > 0
    text = cli("devices", "--probe", "edge")
    assert text.code == 0
    assert f"onnxruntime {onnxruntime.__version__}" in text.out
    assert "no fleet" in cli("devices", "fleet:none").failed()


def test_no_devices_says_where_to_name_them(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert f"name them in {tmp_path}/edgecnn/devices.toml" in cli("devices").out
