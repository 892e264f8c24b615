"""``edgecnn`` and ``python -m edgecnn``: the group of commands, and the one place where exceptions become text and exit codes.

Exit codes: 0 fine, 1 an error with one line that says what to do, 2 wrong usage (options that are wrong whatever the files hold),
3 a gate was breached (verification, a budget), 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from edgecnn._version import __version__
from edgecnn.errors import EdgecnnError

__all__ = ["main"]

COMMANDS = {
    "models": "List the models of the zoo and their published weights.",
    "export": "Take a model from PyTorch to a verified bundle.",
    "build": "Build TensorRT engines of a bundle's graphs.",
    "quantize": "Quantize an ONNX file to INT8.",
    "verify": "Prove a bundle on this device, without PyTorch.",
    "evaluate": "Accuracy of a bundle's variants on labelled images.",
    "sweep": "Evaluate bundles x variants x backends into one table.",
    "bench": "Measure a bundle on this device, or two against each other.",
    "analyze": "Explain INT8 layer by layer: which layers cost accuracy, and why.",
    "compare": "Accuracy against operations or latency: the zoo, or bundles.",
    "report": "One page with everything there is to know of a bundle.",
    "predict": "Classify images with a bundle.",
    "inspect": "Show what is in a bundle or an ONNX file, and why.",
    "package": "Package a bundle for Triton, or as a container image.",
    "native": "Say where the C++ runtime is: headers, CMake, an example.",
    "plugin": "Compile the deformable-convolution plugin for TensorRT.",
    "devices": "List and probe the devices that --on runs on.",
    "doctor": "Check this machine: backends, versions, what is missing.",
}
"""Command -> its line in ``edgecnn --help``, so that help imports no command."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"edgecnn.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the command list from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", message="edgecnn %(version)s")
def cli() -> None:
    """From a PyTorch CNN classifier to a verified edge deployment.

    \b
    edgecnn export efficientnet_lite0 --int8     export, quantize, verify, bundle
    edgecnn verify efficientnet_lite0-int8       prove it again, on the device
    edgecnn predict efficientnet_lite0-int8 cat.jpg
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code. ``--debug``, or ``EDGECNN_DEBUG=1``, lets exceptions through."""
    debug = "--debug" in arguments or os.environ.get("EDGECNN_DEBUG", "") not in ("", "0")
    as_json = "--json" in arguments
    try:
        result: Any = cli.main(args=arguments, prog_name="edgecnn", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return _fail(_usage_text(error), "UsageError", 2, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", "Interrupted", 130, as_json)
    except click.ClickException as error:
        return _fail(error.format_message(), type(error).__name__, 1, as_json)
    except BrokenPipeError:
        # The reader (head, less) has gone; give the interpreter nothing to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EdgecnnError as error:
        if debug:
            raise
        return _fail(str(error), type(error).__name__, 1, as_json)
    except MemoryError:
        return _fail(
            "out of memory: use a smaller model, fewer threads or a machine with more memory", "MemoryError", 1, as_json
        )
    except Exception as error:
        if debug:
            raise
        return _fail(_foreign_text(error), type(error).__name__, 1, as_json)


def _foreign_text(error: Exception) -> str:
    """Return an error that no stage has put into words: the system's own reason and place, or that it is a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"unexpected {text} (run again with --debug for the traceback)"


def _usage_text(error: click.UsageError) -> str:
    """Return a usage error as one line with the way to the help."""
    text = " ".join(error.format_message().split())
    if error.ctx is None:
        return text
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See '{error.ctx.command_path} --help'."


def _fail(text: str, kind: str, code: int, as_json: bool) -> int:
    """Report an error as one line on stderr, and as the one JSON document on stdout where that was asked for."""
    if as_json:
        from edgecnn.cli.output import emit

        emit({"error": {"type": kind, "message": text}})
    click.echo("error: " + "; ".join(line.strip() for line in text.splitlines() if line.strip()), err=True)
    return code


if __name__ == "__main__":
    main()
