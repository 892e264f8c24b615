"""The loop that answers a connection's requests."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from edgecnn.remote.far import jobs, machine, store
from edgecnn.remote.far.base import Refused, Session

__all__ = ["MARK", "serve"]

MARK = b"\x1eedgecnn 1\n"
"""Stands before the first answer: what a login shell prints comes earlier."""
SILENCE = 900  # s without a request, after which a connection whose client is gone ends itself

OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "hello": store.hello,
    "missing": store.missing,
    "hold": store.hold,
    "put": store.put,
    "commit": store.commit,
    "unlock": store.unlock,
    "adopt": store.adopt,
    "start": jobs.start,
    "poll": jobs.poll,
    "kill": jobs.kill,
    "collect": jobs.collect,
    "get": jobs.get,
    "check": machine.check,
    "facts": machine.facts,
}


def serve() -> None:
    """Answer requests until the connection ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    incoming, outgoing, session = sys.stdin.buffer, sys.stdout.buffer, Session()
    outgoing.write(MARK)
    outgoing.flush()
    while True:
        signal.alarm(SILENCE)
        line = incoming.readline()
        signal.alarm(0)
        if not line.endswith(b"\n"):
            return
        request = json.loads(line)
        payload = incoming.read(request.get("bytes", 0))
        if len(payload) < request.get("bytes", 0):
            return
        try:
            answer = OPERATIONS[request["op"]]({**request, "payload": payload, "session": session})
        except Refused as error:
            answer = {"error": str(error)}
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            answer = {"error": f"{error.strerror or error}{where}"}
        data = answer.pop("data", b"")
        answer["bytes"] = len(data)
        outgoing.write(json.dumps(answer).encode() + b"\n" + data)
        outgoing.flush()
