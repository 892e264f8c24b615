"""Whether a plan fits where it is to be loaded, decided from the manifest before TensorRT is given a byte of it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifacts import EngineFacts, sha256_file
from edgecnn.errors import EngineMisfitError, UserError
from edgecnn.runtime.trt_api import spoken, version_numbers

__all__ = ["check_device", "check_package", "check_plugins", "check_weights", "rebuild_line", "shape_misfit"]

_AMPERE = (8, 0)


def rebuild_line(facts: EngineFacts, bundle: str = "BUNDLE") -> str:
    """Return the command that builds a plan again, for the device that it is run on."""
    batch = facts.options.get("batch")
    size = f" --batch {batch}" if batch else ""
    return f"edgecnn build {bundle} --target {facts.flavour} --variant {facts.precision}{size}"


def check_package(facts: EngineFacts, version: str, where: str, *, host_code: bool = False) -> None:
    """Check what needs no GPU: version, platform, and what the session cannot do.

    Args:
        facts: of the plan.
        version: of the installed package.
        where: the plan's file, for messages.
        host_code: whether code of the plan may run on the host.

    Raises:
        EngineMisfitError: it was built with another version, or on another platform.
        UserError: it brings code that ``host_code`` does not allow.
    """
    name, here = spoken(facts.flavour), f"{platform.system().lower()}-{platform.machine().lower()}"
    if facts.platform and facts.platform != here:
        raise EngineMisfitError(
            f"{where} was built on {facts.platform}, and this is {here}; here, run: {rebuild_line(facts)}"
        )
    portable = bool(facts.options.get("version_compatible"))
    if version != facts.version and not (portable and _later(version, facts.version)):
        also = f" or a later {facts.version.partition('.')[0]}" if portable else ""
        raise EngineMisfitError(
            f"{where} needs {name} {facts.version}{also}, and {version} is installed here: install that version, or run: "
            f"{rebuild_line(facts)}"
        )
    if portable and not host_code:
        raise UserError(
            f"{where} is version-compatible: it brings code that runs on the host; if you trust it, load it with "
            "TensorRtOptions(allow_host_code=True)"
        )


def check_weights(facts: EngineFacts, weights: Path | None, where: str) -> None:
    """Check that there is a graph to refit a stripped plan from, and that it is the one that the plan was built from. Raises UserError."""
    if not facts.options.get("strip_weights"):
        return
    if weights is None:
        raise UserError(
            f"{where} has no weights (it was built with --strip-weights): give the ONNX file that it was built from as TensorRtSession("
            f"..., weights=FILE), load it from its bundle, or build it without --strip-weights"
        )
    beside = weights.with_name(weights.name + ".data")
    files = [path for path in (weights, beside) if path.is_file()]
    if weights not in files or sha256_file(*files) != facts.model_sha256:
        raise UserError(
            f"{weights} is not the graph that {where} was built from, and so has not its weights: build it again"
        )


def check_device(facts: EngineFacts, compute_capability: str, where: str) -> None:
    """Check the GPU. Raises EngineMisfitError: the plan was built for others."""
    if compute_capability in facts.compute_capabilities or not facts.compute_capabilities:
        return
    if facts.options.get("hardware") == "ampere+" and version_numbers(compute_capability) >= _AMPERE:
        return
    wanted = ", ".join(facts.compute_capabilities)
    gpu = f" --gpu {compute_capability}" if facts.flavour == "tensorrt-rtx" else ""
    raise EngineMisfitError(
        f"{where} needs a GPU of compute capability {wanted}, and this one has {compute_capability}; run: {rebuild_line(facts)}{gpu}"
    )


def check_plugins(facts: EngineFacts, plugins: Sequence[Path], where: str) -> None:
    """Check that the libraries of the plan's own operators are given. Raises UserError."""
    given = {path.name for path in plugins}
    missing = [str(name) for name in facts.options.get("plugins", ()) if str(name) not in given]
    if missing:
        raise UserError(
            f"{where} was built with the plugin library {missing[0]}, which holds operators that it runs: give it with "
            f"TensorRtOptions(plugins=...), or --plugin PATH/{missing[0]}"
        )
    for path in plugins:
        if not path.is_file():
            raise UserError(f"no plugin library at {path}: 'edgecnn plugin build' compiles edgecnn's own")


def shape_misfit(
    name: str, shape: Sequence[int], profile: Sequence[Sequence[int]], *, where: str, rebuild: str
) -> UserError | None:
    """Return the refusal of a shape outside of the plan's profile, or None where it fits."""
    low, best, high = profile
    if all(least <= dim <= most for least, dim, most in zip(low, shape, high, strict=True)):
        return None
    return UserError(
        f"input {name!r} has shape {list(shape)}, outside of what {where} was built for: least {list(low)}, best {list(best)}, "
        f"most {list(high)}; run other batches, or build for them: {rebuild}"
    )


def _later(found: str, wanted: str) -> bool:
    """Whether a version is of the same major one, and no older."""
    newer, older = version_numbers(found), version_numbers(wanted)
    return newer[:1] == older[:1] and newer >= older
