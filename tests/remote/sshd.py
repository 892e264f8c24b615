"""OpenSSH's own sshd on 127.0.0.1, with its own key, configuration and port: nothing of the machine's is touched."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def wait_for(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until something is so; say whether it became so in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def missing() -> str:
    """Say what the tests lack on this machine, "" where they lack nothing."""
    absent = [name for name, found in (("sshd", SSHD), ("ssh", shutil.which("ssh"))) if not found]
    return f"{' and '.join(absent)} not installed: apt install openssh-server openssh-client" if absent else ""


@dataclass
class Server:
    """A running sshd, and how a client reaches it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    @property
    def config(self) -> Path:
        """What ``ssh -F`` gets: host ``edge`` with the right key, and hosts for what goes wrong."""
        return self.folder / "ssh_config"

    @property
    def cache(self) -> Path:
        """The folder on the "device" that everything goes to, with a name that a shell would misread."""
        return self.folder / "far side's $(touch pwned) cache"

    def sessions(self) -> list[int]:
        """Return the process ids of sshd's children: one or two a connection."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except OSError:
                continue
            name, _, rest = text.rpartition(")")
            if int(rest.split()[1]) == self.process.pid and "sshd" in name:
                found.append(int(stat.parent.name))
        return found

    def cut(self) -> int:
        """Kill every connection, as a network would; return how many there were."""
        found = self.sessions()
        for pid in found:
            os.kill(pid, 9)
        return len(found)

    def stop(self) -> None:
        """End it."""
        self.cut()
        self.process.terminate()
        self.process.wait(timeout=10)

    def objects(self) -> dict[str, tuple[int, int]]:
        """Return the contents in the device's cache: name -> (inode, bytes)."""
        folder = self.cache / "objects"
        return {path.name: (path.stat().st_ino, path.stat().st_size) for path in folder.iterdir()} if folder.exists() else {}  # fmt: skip

    def leftovers(self) -> list[str]:
        """Return what is in the device's cache beside whole contents: jobs, and files that never arrived."""
        return sorted(
            path.relative_to(self.cache).as_posix()
            for name in ("jobs", "incoming", "venvs")
            for path in (self.cache / name).glob("*")
        )

    def inventory(
        self,
        home: Path,
        *,
        extra: str = "",
        grace: float = 20,
        python: str = sys.executable,
        base_python: str = sys.executable,
    ) -> Path:
        """Write a devices.toml below ``home`` (an XDG_CONFIG_HOME) whose ``edge`` runs this interpreter, or another."""
        path = home / "edgecnn" / "devices.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"ssh_config = {toml(self.config)}\n"
            f"[devices.edge]\nurl = 'edge'\npython = {toml(python)}\nbase_python = {toml(base_python)}\n"
            f"root = {toml(self.cache)}\ngrace = {grace}\n{extra}"
        )
        return path


def toml(value: object) -> str:
    """Return a string in TOML."""
    import json

    return json.dumps(str(value))


def keygen(path: Path) -> None:
    """Make a key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, capture_output=True)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, environment: Sequence[str] = ()) -> Server:
    """Start sshd in a folder, and write the client's configuration."""
    for name in ("host", "client", "stranger", "other_host", "guarded"):
        keygen(folder / name)
    port, log = free_port(), folder / "sshd.log"
    public = (folder / "client.pub").read_text()
    (folder / "authorized_keys").write_text(public)
    for path in (folder, folder / "authorized_keys"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/sshd.pid\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\nMaxSessions 100\n"
        + "".join(f"SetEnv {one}\n" for one in environment)
    )
    address = f"[127.0.0.1]:{port}"
    (folder / "known_hosts").write_text(f"{address} {(folder / 'host.pub').read_text()}")
    (folder / "wrong_hosts").write_text(f"{address} {(folder / 'other_host.pub').read_text()}")
    (folder / "ssh_config").write_text(client_config(folder, port))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    assert SSHD is not None
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=subprocess.DEVNULL, stderr=stream
        )
    until = time.monotonic() + 10
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Server(folder=folder, port=port, process=process, log=log)
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"sshd did not start: {log.read_text()}")


def client_config(folder: Path, port: int) -> str:
    """Return the client's configuration: one good host, and one for each thing that goes wrong."""
    hosts = {
        "edge": ("client", "known_hosts", port),
        "twin": ("client", "known_hosts", port),
        "liar": ("client", "wrong_hosts", port),
        "unknown": ("client", "no_hosts", port),
        "locked": ("stranger", "known_hosts", port),
        "dead": ("client", "known_hosts", free_port()),
        "behind": ("client", "known_hosts", port),
    }
    return "".join(
        f"Host {name}\n  HostName 127.0.0.1\n  Port {there}\n  User {getpass.getuser()}\n  IdentityFile {folder}/{key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/{known}\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n" + ("  ProxyJump edge\n" if name == "behind" else "")
        for name, (key, known, there) in hosts.items()
    )
