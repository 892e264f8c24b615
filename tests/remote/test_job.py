"""A job outlives its connection and not its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sshd
from test_transport import device

from edgecnn.errors import RemoteError
from edgecnn.remote.job import Job
from edgecnn.remote.run import _alone
from edgecnn.remote.sync import path_tree, send
from edgecnn.remote.transport import Cancelled, Link

COUNT = """
import sys, time
for number in range(40):
    print(f"line {number}", file=sys.stderr, flush=True)
    time.sleep(0.05)
print('{"counted": 40}')
"""
SLEEP = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "90"])
with open(sys.argv[1] + ".part", "w") as stream:
    stream.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(90)
"""
CLIENT = """
import json, sys
from pathlib import Path
from edgecnn.remote.inventory import Device
from edgecnn.remote.job import Job
from edgecnn.remote.transport import Link
values = json.loads(sys.argv[1])
values["ssh_config"] = Path(values["ssh_config"])
with Link(Device(**values)) as link, Job(link) as job:
    job.run([[sys.executable, "-c", sys.argv[2], sys.argv[3]]], listen=print)
"""


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and waits for its parent does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_cut_in_the_middle_loses_no_line_and_no_result(server: sshd.Server) -> None:
    lines: list[str] = []
    cuts: list[int] = []

    def listen(line: str) -> None:
        lines.append(line)
        if line in ("line 5", "line 20"):
            cuts.append(server.cut())

    with Link(device(server, grace=20.0)) as link, Job(link) as job:
        ended = job.run([[sys.executable, "-c", COUNT]], listen=listen)
        assert job.document() == {"counted": 40}
    assert lines == [f"line {number}" for number in range(40)]
    assert len(cuts) == 2
    assert min(cuts) >= 1
    assert link.reconnected >= 2
    assert ended.code == 0
    assert ended.seconds >= 2
    assert server.leftovers() == []


@pytest.mark.sweep  # ssh takes 15 to 20 s to notice
def test_a_network_that_falls_silent_is_noticed_and_gone_around(server: sshd.Server, tmp_path: Path) -> None:
    """Nobody is told that the connection is gone, as when a cable is pulled: also while files are sent, which are locked."""
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend(server.sessions())
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    def listen(line: str) -> None:
        if line == "line 5":
            freeze()

    (tmp_path / "big").write_bytes(os.urandom(30_000_000))
    try:
        with Link(device(server, grace=60.0)) as link:
            with Job(link) as job:
                assert job.run([[sys.executable, "-c", COUNT]], listen=listen).code == 0
                assert job.document() == {"counted": 40}
            first = len(frozen)
            link.here["rsync"] = ""
            sent = send(
                link, [path_tree(tmp_path / "big")], progress=lambda *_: None if len(frozen) > first else freeze()
            )
        assert sent.files == 1
        assert len(frozen) > first >= 1
        assert link.reconnected >= 2
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)


def test_a_killed_client_leaves_no_job(server: sshd.Server, tmp_path: Path) -> None:
    """SIGKILL: nothing of the client's runs any more. The device stops program and child by itself, after the grace and not before."""
    grace, pids = 3.0, tmp_path / "pids"
    values = {"name": "edge", "host": "edge", "ssh_config": str(server.config), "root": str(server.cache),
              "grace": grace, "base_python": sys.executable}  # fmt: skip
    client = subprocess.Popen([sys.executable, "-c", CLIENT, json.dumps(values), SLEEP, str(pids)])
    try:
        assert sshd.wait_for(pids.exists, 30)
        running = [int(pid) for pid in pids.read_text().split()]
        (lease,) = server.cache.glob("jobs/*/lease")
        renewed = [lease.stat().st_mtime]  # by the device's monotonic clock, which here is ours
        assert sshd.wait_for(lambda: lease.stat().st_mtime > renewed[0] + grace, 30)
        assert all(alive(pid) for pid in running)  # the client keeps it alive for longer than the grace
    finally:
        client.kill()
        client.wait()

    def ended() -> bool:
        with suppress(FileNotFoundError):
            renewed.append(lease.stat().st_mtime)
        return not any(alive(pid) for pid in running)

    assert sshd.wait_for(ended, grace + 30)
    assert time.monotonic() - renewed[-1] > grace
    assert sshd.wait_for(lambda: server.leftovers() == [], 30)


def test_a_stopped_job_is_gone_at_once(server: sshd.Server, tmp_path: Path) -> None:
    pids, stop = tmp_path / "pids", threading.Event()
    with Link(device(server, grace=60.0), cancelled=stop) as link:

        def when_it_runs() -> None:
            sshd.wait_for(pids.exists, 30)
            stop.set()

        thread = threading.Thread(target=when_it_runs)
        thread.start()
        with pytest.raises(Cancelled, match="edge: stopped"), Job(link) as job:
            job.run([[sys.executable, "-c", SLEEP, str(pids)]], listen=print)
        thread.join()
        assert not any(alive(int(pid)) for pid in pids.read_text().split())
        assert server.leftovers() == []


def test_a_job_that_the_device_killed_is_an_error(server: sshd.Server) -> None:
    with (
        Link(device(server)) as link,
        pytest.raises(RemoteError, match=r"killed by signal 9 \(the device is out of memory"),
        Job(link) as job,
    ):
        job.run([[sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]], listen=print)


def test_a_client_that_comes_back_too_late_is_told(server: sshd.Server) -> None:
    said: list[str] = []

    def listen(line: str) -> None:
        said.append(line)
        assert sshd.wait_for(lambda: server.leftovers() == [], 30)  # the client is suspended

    code = "import sys, time; print('go', file=sys.stderr, flush=True); time.sleep(90)"
    lost = pytest.raises(RemoteError, match="stopped there, since no client asked for it for 1 s")
    with Link(device(server, grace=1.0)) as link, lost, Job(link) as job:
        job.run([[sys.executable, "-c", code]], listen=listen)
    assert said == ["go"]
    assert server.leftovers() == []


def test_a_result_is_kept_while_its_client_waits_for_others(server: sshd.Server) -> None:
    """Devices of a fleet write into one bundle in turns, which may take longer than the grace."""
    lock = threading.Lock()
    with Link(device(server, grace=2.0)) as link, Job(link) as job:
        job.run([[sys.executable, "-c", "print('{}')"]], listen=print)
        lock.acquire()
        timer = threading.Timer(4.0, lock.release)
        timer.start()
        with _alone(job, lock):
            assert job.document() == {}
        timer.join()


def test_files_come_back_checked(server: sshd.Server, tmp_path: Path) -> None:
    code = "open('made','wb').write(bytes(range(256)) * 40000)"
    with Link(device(server)) as link, Job(link) as job:
        job.run([[sys.executable, "-c", code]], listen=print)
        ((sha, size),) = job.files(["made", "not made"]).values()
        job.fetch("made", sha, size, tmp_path / "made")
        assert (tmp_path / "made").read_bytes() == bytes(range(256)) * 40000
        with pytest.raises(RemoteError, match="arrived changed"):
            job.fetch("made", "0" * 64, size, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_is_stopped_on_the_command_line(
    server: sshd.Server, bundle: Path, photo: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    """The job ends, nothing of it stays, and the exit code is 130."""
    python = tmp_path / "slow python"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in edgecnn) echo $$ > "{tmp_path}/pid"; exec sleep 90;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    options = ["--on", "edge", "--on-python", str(python)]
    command = [sys.executable, "-m", "edgecnn", "predict", *options, "--", str(bundle), str(photo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        started = sshd.wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 30)
        client.send_signal(sign)
        out, err = client.communicate(timeout=30)
    assert started, err
    assert client.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "error: interrupted"
    assert not alive(int((tmp_path / "pid").read_text()))
    assert server.leftovers() == []
