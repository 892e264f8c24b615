"""The far side alone, as a program of any Python from 3.8 on: no ssh is needed to try it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sshd

from edgecnn.remote import transport
from edgecnn.remote.far.serve import MARK

FAR = Path(transport.__file__).parent / "far"


class Far:
    """A running far side."""

    def __init__(self, root: Path, client: str = "a") -> None:
        self.root, self.client = root, client
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-I", "-c", transport.BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        program = transport._program()
        self.stdin.write(b"%d\n%s" % (len(program), program))
        self.stdin.flush()
        assert self.stdout.readline() == MARK
        self("hello")

    @property
    def stdin(self) -> Any:
        return self.process.stdin

    @property
    def stdout(self) -> Any:
        return self.process.stdout

    def __call__(self, op: str, payload: bytes = b"", **fields: Any) -> dict[str, Any]:
        request = {"op": op, "root": str(self.root), "client": self.client, **fields, "bytes": len(payload)}
        self.stdin.write(json.dumps(request).encode() + b"\n" + payload)
        self.stdin.flush()
        answer = json.loads(self.stdout.readline())
        return {**answer, "data": self.stdout.read(answer["bytes"])}

    def put(self, data: bytes) -> str:
        """Send a content."""
        sha = hashlib.sha256(data).hexdigest()
        self("missing", files={sha: len(data)})
        self("put", data, sha=sha, offset=0)
        assert self("commit", shas=[sha])["bad"] == []
        return sha

    def wait(self, job: str) -> dict[str, Any]:
        """Poll until a job is over."""
        offset = 0
        while (answer := self("poll", job=job, offset=offset, wait=1))["state"] == "running":
            offset += len(answer["data"])
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.process.wait(timeout=10)
        self.stdout.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """Return a far side with an empty cache."""
    found = Far(tmp_path / "root")
    yield found
    found.close()


JOB = "0123456789abcdef"


def state_of(pid: int) -> str:
    """Return the letter of a process's state, nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("path", sorted(FAR.glob("*.py")), ids=lambda path: path.name)
def test_it_is_python_3_8_and_imports_the_standard_library_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            own = name.startswith("edgecnn.remote.far")
            assert own or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name}: {name}"


def test_contents_are_whole_or_not_there(far: Far) -> None:
    data = b"x" * 1000
    sha = hashlib.sha256(data).hexdigest()
    assert far("missing", files={sha: 1000})["missing"] == {sha: 0}
    far("put", data[:600], sha=sha, offset=0)
    assert not (far.root / "objects" / sha).exists()
    assert far("missing", files={sha: 1000})["missing"] == {sha: 600}
    assert far("commit", shas=[sha])["bad"] == [sha]
    assert not (far.root / "objects" / sha).exists()
    assert far("missing", files={sha: 1000})["missing"] == {sha: 0}
    far("put", data[:600], sha=sha, offset=0)
    assert far("put", data[600:], sha=sha, offset=700)["have"] == 600  # a gap is not written, and said
    assert far("put", data[600:], sha=sha, offset=600)["have"] == 1000
    assert far("commit", shas=[sha])["bad"] == []
    assert (far.root / "objects" / sha).read_bytes() == data
    assert far("missing", files={sha: 1000})["missing"] == {}
    assert far("commit", shas=[sha])["bad"] == []  # once more, as after a cut, does no harm


def test_one_client_sends_at_a_time(far: Far) -> None:
    sha, other = "a" * 64, Far(far.root, "b")
    try:
        assert far("missing", files={sha: 1})["missing"] == {sha: 0}
        assert other("missing", files={sha: 1})["busy"]
        assert other("put", b"x", sha=sha, offset=0)["busy"]
        far("unlock")
        assert other("missing", files={sha: 1})["missing"] == {sha: 0}
    finally:
        other.close()


def test_a_connection_that_went_silent_does_not_lock_its_client_out(far: Far) -> None:
    """The network is gone without a word: the old connection's process lives on, and cannot know."""
    sha, again, other = "a" * 64, Far(far.root), Far(far.root, "b")
    try:
        far("missing", files={sha: 1})
        os.kill(far.process.pid, signal.SIGSTOP)
        assert other("missing", files={sha: 1})["busy"]
        assert again("missing", files={sha: 1})["missing"] == {sha: 0}
        assert far.process.wait(timeout=5) == -signal.SIGKILL
        long_ago = time.time() - 200
        os.utime(far.root / "incoming.lock", (long_ago, long_ago))
        assert not other("hold")["busy"]  # of another client, but idle for minutes
        assert again.process.wait(timeout=5) == -signal.SIGKILL
    finally:
        again.close()
        other.close()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a//b", ".", "a/.", "x\0y"])
def test_no_path_leaves_a_job(far: Far, name: str) -> None:
    sha = far.put(b"evil")
    tree = {"place": "0/tree", "folders": [""], "files": {name or ".": sha}}
    assert "no path inside" in far("start", job=JOB, trees=[tree], steps=[["true"]], grace=5)["error"]
    place = {"place": name, "folders": [""], "files": {}}
    assert "no path inside" in far("start", job=JOB, trees=[place], steps=[["true"]], grace=5)["error"]
    assert not (far.root / "jobs" / JOB).exists()
    assert "no path inside" in far("get", job=JOB, path=name, offset=0, limit=9)["error"]
    assert list(far.root.rglob("x")) == []


@pytest.mark.parametrize("name", ["../x", "", "ABC", "a" * 65])
def test_no_name_of_a_job_or_content_leaves_the_root(far: Far, name: str) -> None:
    assert "is no name of a job" in far("poll", job=name, offset=0, wait=0)["error"]
    assert "is no sha256" in far("missing", files={name: 1})["error"]


def test_a_job_runs_in_its_folder_and_leaves_nothing(far: Far) -> None:
    sha = far.put(b"hello")
    name = "a\n'$(touch pwned)\" \udce9 ü"
    tree = {"place": "0/-rf", "folders": ["", "empty"], "files": {name: sha}}
    code = "import os,sys; print(sorted(os.listdir('0/-rf'))); sys.stderr.write('said'); sys.exit(7)"
    assert "error" not in far("start", job=JOB, trees=[tree], steps=[[sys.executable, "-c", code]], grace=5)
    assert "error" not in far("start", job=JOB, trees=[tree], steps=[["false"]], grace=5)  # twice is once
    answer = far.wait(JOB)
    assert (answer["state"], answer["code"], answer["why"]) == ("done", 7, "")
    assert far("poll", job=JOB, offset=0, wait=0)["data"] == b"said"
    assert ast.literal_eval(far("get", job=JOB, path="out", offset=0, limit=999)["data"].decode()) == [name, "empty"]
    far("kill", job=JOB)
    assert list((far.root / "jobs").iterdir()) == []
    assert far("poll", job=JOB, offset=0, wait=0)["state"] == "gone"


def test_a_job_outlives_its_connection_and_not_its_grace(far: Far) -> None:
    steps = [[sys.executable, "-c", "import time; time.sleep(90)"]]
    far("start", job=JOB, trees=[], steps=steps, grace=4.0)
    far.close()
    later = Far(far.root)
    try:
        assert later("poll", job=JOB, offset=0, wait=0)["state"] == "running"
        assert sshd.wait_for(lambda: not list((far.root / "jobs").iterdir()))  # no poll, which would renew its lease
        assert later("poll", job=JOB, offset=0, wait=0)["state"] == "gone"
    finally:
        later.close()


def test_a_program_that_is_not_there_is_said(far: Far) -> None:
    far("start", job=JOB, trees=[], steps=[["/no/such program"]], grace=5)
    answer = far.wait(JOB)
    assert "No such file" in answer["why"]
    assert "/no/such program" in answer["why"]


def test_a_supervisor_that_is_killed_takes_its_job_along(far: Far) -> None:
    code = "import os,time; open('pid','w').write(str(os.getpid())); time.sleep(60)"
    far("start", job=JOB, trees=[], steps=[[sys.executable, "-c", code]], grace=30)
    pid_file = far.root / "jobs" / JOB / "work" / "pid"
    assert sshd.wait_for(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, 9)
    assert sshd.wait_for(lambda: far("poll", job=JOB, offset=0, wait=0)["state"] == "lost")
    assert sshd.wait_for(lambda: state_of(pid) in ("", "Z"))
    far("kill", job=JOB)
    assert list((far.root / "jobs").iterdir()) == []


def test_what_is_old_is_swept_and_what_is_used_stays(far: Far) -> None:
    old, used = far.put(b"old"), far.put(b"used")
    long_ago = time.time() - 31 * 86400
    for sha in (old, used):
        os.utime(far.root / "objects" / sha, (long_ago, long_ago))
    far("missing", files={used: 4})
    far("hello")
    assert [path.name for path in (far.root / "objects").iterdir()] == [used]
