"""What goes wrong between here and the device, each with one line that says what to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import sshd
from cli_tools import Cli

from edgecnn.errors import DisconnectedError, MissingDependencyError, RemoteError
from edgecnn.remote.inventory import Device, Inventory
from edgecnn.remote.sync import path_tree, send
from edgecnn.remote.transport import Link


def device(server: sshd.Server, host: str = "edge", **changes: object) -> Device:
    """Describe a host of the server's client configuration."""
    values: dict[str, object] = {
        "name": host, "host": host, "ssh_config": server.config, "root": str(server.cache), "base_python": sys.executable
    }  # fmt: skip
    return Device(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("liar", "its host key changed"),
        ("unknown", "ssh does not trust its host key"),
        ("locked", "is your key there"),
        ("dead", "nothing answers on that port"),
        ("no-such-host.invalid", "no such host"),
    ],
)
def test_a_device_that_cannot_be_reached(server: sshd.Server, host: str, message: str) -> None:
    with pytest.raises(RemoteError) as refused:
        Link(device(server, host))
    assert str(refused.value).startswith(f"{host}: ")
    assert message in str(refused.value)
    assert not server.cache.exists()


def test_the_command_line_says_it_in_one_line(server: sshd.Server, cli: Cli, bundle: Path) -> None:
    line = cli("verify", "--on", "locked", "--", bundle).failed()
    assert "locked: it refused the login" in line
    result = cli("verify", "--on", "locked", "--json", "--", bundle)
    assert (result.code, result.document["error"]["type"]) == (1, "RemoteError")
    assert "no fleet 'x'" in cli("verify", "--on", "fleet:x", "--", bundle).failed()
    assert "go with --on" in cli("verify", "--on-python", "x", "--", bundle).failed(2)


def test_no_ssh_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match="apt install openssh-client"):
        Link(Device(name="a", host="a"))


@pytest.mark.parametrize("python", ["/no/such/py $(touch pwned) 'x", "~/no such python", "no-such-python"])
def test_no_python_there(server: sshd.Server, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoteError, match=r"it cannot run .*: name its Python with base_python"):
        Link(device(server, base_python=python))
    assert not (Path.home() / "pwned").exists()


def test_what_is_no_python(server: sshd.Server) -> None:
    with pytest.raises(RemoteError, match=r"/bin/false there ended with 1|the far side did not start|connection ended"):
        Link(device(server, base_python="/bin/false"))


def test_no_permission_there(server: sshd.Server) -> None:
    with pytest.raises(
        RemoteError, match=r"edge: (No such file or directory|Permission denied|Not a directory): /proc/"
    ):
        Link(device(server, root="/proc/version/edgecnn"))


def test_a_login_shell_that_talks(server: sshd.Server) -> None:
    keys = server.folder / "authorized_keys"
    plain = keys.read_text()
    noisy = f'command="echo Welcome to $USER; printf x; eval \\"$SSH_ORIGINAL_COMMAND\\"" {plain}'
    keys.write_text(noisy)
    try:
        with Link(device(server)) as link:
            assert link.root == str(server.cache)
            assert link.call("facts")["python3"].startswith("3.")
    finally:
        keys.write_text(plain)


def test_a_cut_connection_is_made_anew(server: sshd.Server) -> None:
    said: list[str] = []
    with Link(device(server, grace=20.0), say=said.append) as link:
        assert server.cut() >= 1
        assert link.call("facts")["cores"] >= 1
        assert link.reconnected == 1
    assert said[0].startswith("edge: the connection ended")
    assert said[1] == "edge: connected again"
    assert sshd.wait_for(lambda: server.sessions() == []), "sshd takes a moment to see it"


def test_a_device_that_stays_away(server: sshd.Server) -> None:
    with Link(device(server, grace=1.0)) as link:
        server.cut()
        object.__setattr__(link.device, "host", "dead")
        with pytest.raises(DisconnectedError, match="no new connection for 1 s"):
            link.call("facts")


def test_nothing_of_a_connection_is_left_here(server: sshd.Server) -> None:
    link = Link(device(server))
    folder = Path(link.ssh.folder)
    assert list(folder.iterdir())
    link.close()
    assert not folder.exists()
    assert server.sessions() == []


def test_a_device_behind_a_jump_host(server: sshd.Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x" * 1000)
    with Link(device(server, host="behind")) as link:
        assert send(link, [path_tree(tmp_path / "file")]).bytes == 1000
        assert len(server.sessions()) >= 2


def test_an_address_takes_the_configuration_of_the_inventory(server: sshd.Server) -> None:
    (found,) = Inventory.read().find("ssh://edge")
    with Link(device(server, host=found.host)) as link:
        assert link.here["rsync"] == (shutil.which("rsync") or "")
