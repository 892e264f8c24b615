"""devices.toml and addresses: what is understood, and that nothing reaches ssh that it would take for an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import UserError
from edgecnn.remote.inventory import Device, Inventory, inventory_path, parse_address

FULL = """
ssh_config = "lab"

[devices.orin]
url = "ssh://nvidia@Orin.local:2222"
python = "/opt/edge/bin/python"
root = "/data/edge"
wheelhouse = "wheels"
extras = ["openvino"]
env = { CUDA_VISIBLE_DEVICES = "0" }
grace = 5

[devices.xavier]
url = "xavier-of-ssh-config"

[fleets]
lab = ["xavier", "orin"]
"""


def read(folder: Path, text: str) -> Inventory:
    """Read an inventory of some text."""
    (folder / "devices.toml").write_text(text)
    return Inventory.read(folder / "devices.toml")


def test_everything_that_the_file_may_say(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    orin, xavier = found.devices["orin"], found.devices["xavier"]
    assert (orin.user, orin.host, orin.port) == ("nvidia", "Orin.local", 2222)
    assert orin.address == "ssh://nvidia@Orin.local:2222"
    assert (orin.python, orin.root, orin.grace) == ("/opt/edge/bin/python", "/data/edge", 5)
    assert orin.extras == ("cpu", "openvino")
    assert orin.wheelhouse == tmp_path / "wheels"
    assert orin.ssh_config == xavier.ssh_config == tmp_path / "lab"
    assert dict(orin.env) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert (xavier.user, xavier.host, xavier.port, xavier.grace) == ("", "xavier-of-ssh-config", 0, 60)
    assert found.find("fleet:lab") == (xavier, orin)
    assert found.find("orin") == (orin,)
    assert found.find("ssh://orin")[0].host == "orin"
    assert found.find("ssh://orin")[0].ssh_config == tmp_path / "lab"


def test_no_file_is_an_empty_inventory_whose_addresses_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert inventory_path() == tmp_path / "edgecnn" / "devices.toml"
    found = Inventory.read()
    assert found.devices == {}
    (device,) = found.find("ssh://me@[fe80::1%25eth0]:22")
    assert (device.user, device.host, device.port) == ("me", "fe80::1%25eth0", 22)
    assert found.find("some-host")[0].address == "ssh://some-host"
    with pytest.raises(UserError, match=r"no fleet 'lab' in .*devices.toml; it has none"):
        found.find("fleet:lab")


@pytest.mark.parametrize(
    "address",
    [
        "ssh://-oProxyCommand=touch pwned/",
        "ssh://-oProxyCommand=x@host",
        "-oProxyCommand=touch",
        "ssh://host;touch pwned",
        "ssh://$(touch pwned)",
        "ssh://a b",
        "ssh://host\nProxyCommand x",
        "ssh://",
        "ssh://host:99999",
        "ssh://host:x",
        "http://host",
        "",
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError):
        Inventory(path=tmp_path).find(address)


def test_passwords_and_folders_in_an_address_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match="ssh-copy-id") as refused:
        parse_address("ssh://me:secret@host")
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match=r"'root' in devices.toml"):
        parse_address("ssh://host/data")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[devices", "is not TOML"),
        ("colour = 1", "unknown key 'colour'"),
        ("[devices.a]\nurll = 'x'", "device a has an unknown key 'urll': did you mean url?"),
        ("[devices.a]\n", "device a has no url"),
        ("[devices]\na = 1", "device a must be a table"),
        ("[devices.'a b']\nurl = 'x'", "'a b' in devices is no name"),
        ("[devices.a]\nurl = 1", "url must be a string"),
        ("[devices.a]\nurl = 'x'\ngrace = 'long'", "grace must be a number"),
        ("[devices.a]\nurl = 'x'\ngrace = 0", "grace 0 is not between"),
        ("[devices.a]\nurl = 'x'\nenv = { A = 1 }", "env must be a table of strings"),
        ("[devices.a]\nurl = 'x'\nenv = { 'A=B' = '1' }", "'A=B' is no name of a variable"),
        ("[devices.a]\nurl = 'x'\nextras = ['cpu]; x']", "is no extra"),
        ("[fleets]\nlab = ['a']", "fleet lab names 'a', which is not among the devices: none"),
        ("[fleets]\nlab = []", "fleet lab must be a list"),
        ("[devices.a]\nurl = 'x'\n[fleets]\nlab = ['a', 'a']", "names a device twice"),
    ],
)
def test_what_the_file_must_not_say(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert str(tmp_path / "devices.toml") in str(refused.value)


def test_a_gpu_device_does_not_get_both_onnxruntimes(tmp_path: Path) -> None:
    assert read(tmp_path, "[devices.a]\nurl = 'x'\nextras = ['gpu']").devices["a"].extras == ("gpu",)


def test_a_device_is_checked_however_it_is_made() -> None:
    with pytest.raises(UserError, match="is no user name"):
        Device(name="a", host="b", user="-x")
