"""``--on``: the same command on another device. ``@click.command("verify", cls=OnCommand)`` is all that a command needs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgecnn.cli.output import emit, progress_bar, table, warn

if TYPE_CHECKING:
    from edgecnn.progress import Progress
    from edgecnn.remote.fleet import Answer
    from edgecnn.remote.inventory import Device
    from edgecnn.remote.run import File, Listener, Outcome

__all__ = ["OnCommand"]

ROLES: Mapping[str, Literal["bundle", "out", "both"]] = {
    "bundle": "bundle",
    "bundles": "bundle",
    "timing_cache": "both",
    "html": "out",
    "csv_file": "out",
}
"""Name of a parameter that is a path -> what the command does with it; every other path is read."""
_RAW = "edgecnn.raw"
_OWN = ("on", "on_python", "wheelhouse", "as_json")


class OnCommand(click.Command):
    """A command that runs on another device where ``--on`` is given: it is sent there with the files that it names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add the options."""
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--on"], metavar="DEVICE", help="Run on ssh://user@host, a device or fleet:NAME of `edgecnn devices`."),
            click.Option(["--on-python"], metavar="PATH", help="Python on it that has edgecnn. [edgecnn installs itself]"),
            click.Option(["--wheelhouse"], type=click.Path(path_type=Path), help="Wheels for a device that is offline."),
        ]  # fmt: skip

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words: the device gets them as they were written."""
        ctx.meta[_RAW] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run here or there."""
        target, python, wheelhouse = (ctx.params.pop(name) for name in ("on", "on_python", "wheelhouse"))
        if target is None:
            if python or wheelhouse:
                raise click.UsageError("--on-python and --wheelhouse go with --on", ctx)
            return super().invoke(ctx)
        return _run(self, ctx, _devices(target, python, wheelhouse), target)


def _devices(target: str, python: str | None, wheelhouse: Path | None) -> tuple[Device, ...]:
    """Find the devices, and change what the command line says of them."""
    from edgecnn.remote.inventory import Inventory

    found = Inventory.read().find(target)
    if python:
        found = tuple(replace(device, python=python) for device in found)
    if wheelhouse is not None:
        found = tuple(replace(device, wheelhouse=wheelhouse) for device in found)
    return found


def _run(command: click.Command, ctx: click.Context, devices: Sequence[Device], target: str) -> int:
    """Run on the devices and print what came of it."""
    from edgecnn.cli.remote_show import show
    from edgecnn.remote.fleet import run_fleet, worst
    from edgecnn.remote.headline import headline
    from edgecnn.remote.run import prepare

    as_json, many, verb = bool(ctx.params["as_json"]), target.startswith("fleet:"), str(command.name)
    with progress_bar(as_json) as progress:
        prepared = prepare(verb, _arguments(command, ctx), progress=progress)
        with _stoppable():
            answers = run_fleet(devices, prepared, lambda device: _listener(device, progress, many))
    for answer in answers:
        for note in answer.value.notes if answer.value else ():
            warn(note)
    if many:
        _print_fleet(verb, target, answers, as_json)
        return worst(answers)
    (answer,) = answers
    if answer.value is None:
        assert answer.error is not None
        raise answer.error
    document = answer.value.document
    if as_json:
        emit({} if document is None else document)
    elif document is not None and "error" not in document:  # the device has said it on stderr
        show(verb, document)
    elif document is None:
        warn(f"{answer.device.name}: {headline(verb, document)}")
    return answer.value.code


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that the device's job ends at once and not after its grace."""
    signs = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    heeded = [sign for sign in signs if signal.getsignal(sign) is not signal.SIG_IGN]  # nohup
    before = [(sign, signal.signal(sign, signal.default_int_handler)) for sign in heeded]
    try:
        yield
    finally:
        for sign, handler in before:
            signal.signal(sign, handler)


def _listener(device: Device, progress: Progress, many: bool) -> Listener:
    """Return who prints what a device says."""
    from edgecnn.remote.run import Listener

    def report(step: str, done: int, total: int) -> None:
        progress(f"{device.name} {step}" if many else step, done, total)

    return Listener(say=lambda text: click.echo(text, err=True), progress=report)


def _arguments(command: click.Command, ctx: click.Context) -> list[str | File]:
    """Return the command line as the device gets it: the words as they were written, paths as files to send."""
    values, _, order = command.make_parser(ctx).parse_args(args=list(ctx.meta[_RAW]))
    options: list[str | File] = []
    positional: list[str | File] = []
    seen: set[str] = set()
    for param in order:
        name = param.name or ""
        if name in _OWN or name in seen or values.get(name) is None:
            continue
        value = values[name]
        if isinstance(param, click.Option):
            if param.is_flag and not param.is_bool_flag and param.flag_value != value:
                continue
            options += _option(param, value)
        else:
            positional += [_file(param, str(word)) for word in (value if isinstance(value, (tuple, list)) else [value])]
        seen.add(name)
    return [*options, "--json", "--", *positional]


def _option(param: click.Option, value: Any) -> Iterator[str | File]:
    """Yield an option's words."""
    if param.is_flag or param.count:
        names = param.opts if value else param.secondary_opts
        yield from [_long(names)] * (value if param.count else 1)
        return
    for one in value if param.multiple else [value]:
        if param.nargs == 1:
            yield _file(param, str(one), f"{_long(param.opts)}=")
        else:
            yield _long(param.opts)
            yield from (_file(param, str(word)) for word in one)


def _long(names: Sequence[str]) -> str:
    """Return the long name of an option, which takes its value behind ``=`` whatever that begins with."""
    return max(names, key=len)


def _file(param: click.Parameter, word: str, prefix: str = "") -> str | File:
    """Return a word, or the file that it names."""
    from edgecnn.remote.run import File

    if not isinstance(param.type, click.Path):
        return prefix + word
    return File(path=Path(word), prefix=prefix, role=ROLES.get(param.name or "", "in"))


def _print_fleet(verb: str, target: str, answers: Sequence[Answer[Outcome]], as_json: bool) -> None:
    """Print what every device made of a command: one document, or each in turn and a table at the end."""
    from edgecnn.cli.remote_show import show
    from edgecnn.remote.fleet import worst
    from edgecnn.remote.headline import headline

    if as_json:
        devices = {
            answer.device.name: answer.value.to_json() if answer.value else {"code": 1, "error": answer.error_json()}
            for answer in answers
        }
        emit({"on": target, "code": worst(answers), "devices": devices})
        return
    rows = []
    for answer in answers:
        name, outcome = answer.device.name, answer.value
        if outcome is None:
            rows.append((name, "-", "-", f"{answer.error}".removeprefix(f"{name}: ")))
            continue
        if outcome.document is not None and "error" not in outcome.document:  # an error was said on stderr
            click.echo(f"{name}:")
            show(verb, outcome.document)
        rows.append((name, str(outcome.code), f"{outcome.ended.seconds:.1f}", headline(verb, outcome.document)))
    table(("device", "exit code", "s", "result"), rows)
