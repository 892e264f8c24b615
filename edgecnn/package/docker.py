"""A bundle as the context of a container image: the example service, pinned packages, verified while the image is built."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from edgecnn._version import __version__
from edgecnn.errors import UserError
from edgecnn.optional import need
from edgecnn.package.folder import check_verified, packaged
from edgecnn.runtime import Bundle, Choice
from edgecnn.runtime.checks import regular_file
from edgecnn.runtime.manifest import MANIFEST
from edgecnn.wheel import write_wheel
from edgecnn.writing import write_bytes

__all__ = ["DockerConfig", "DockerContext", "pinned", "write_docker"]

_ALWAYS = ("numpy", "pillow", "click", "rich", "fastapi", "uvicorn", "prometheus-client")
_ON_JETSON = ("cuda-bindings", "cuda-core")
_USER = 10001
"""In the container: none that an image brings."""

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:@-]*")


@dataclass(frozen=True, kw_only=True)
class DockerConfig:
    """The image.

    Attributes:
        base: of the image for servers, x86-64 or arm64; empty: Python's slim image on Debian 12, of the Python that runs now.
        jetson_base: of the image for a Jetson: Python 3.11 or newer, and, for engines, the TensorRT that built them.
        port: of the service.
    """

    base: str = ""
    jetson_base: str = "nvcr.io/nvidia/tensorrt:25.11-py3"
    port: int = 8000

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("base", "jetson_base"):
            value = getattr(self, name)
            if not _IMAGE.fullmatch(value or "python"):
                raise UserError(f"Docker: {name} {value!r} is not the name of an image")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 1024 <= self.port < 65536:
            raise UserError(
                f"Docker: port must be from 1024 to 65535 (the service runs without rights), found {self.port!r}"
            )

    @property
    def server_base(self) -> str:
        """The image for servers."""
        return self.base or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"


@dataclass(frozen=True, kw_only=True)
class DockerContext:
    """What was written.

    Attributes:
        path: the folder to build in.
        variant, backend: what the image for servers runs. ``jetson``: the backend of the image for a Jetson.
        requirements: pinned packages of the image for servers.
        notes: what whoever builds it must know; the README in the folder has them too.
    """

    path: Path
    variant: str
    backend: str
    jetson: str
    requirements: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            **vars(self),
            "path": str(self.path),
            "requirements": list(self.requirements),
            "notes": list(self.notes),
        }


def write_docker(
    bundle: Bundle,
    destination: Path,
    config: DockerConfig = DockerConfig(),
    *,
    backend: str | None = None,
    variant: str | None = None,
    force: bool = False,
    allow_unverified: bool = False,
) -> DockerContext:
    """Write a Dockerfile for servers and one for a Jetson, with all that they copy, whole or not at all.

    Packages are pinned to the versions that are installed here, with all that they depend on.

    Args:
        bundle: what is served; it is copied.
        destination: the folder to write.
        config: base images, port.
        backend: ``onnxruntime`` or ``openvino``; by default what was measured to be the fastest.
        variant: by default the one that goes with it.
        force: replace a folder that was written before.
        allow_unverified: package what failed verification; the image then does not verify it either.

    Raises:
        UserError: an unknown variant or backend.
        MissingDependencyError: the backend, or a package of the service, is not installed here, so that its version is unknown.
        BundleUnverifiedError: it failed verification.
        OutputError: the destination exists, or cannot be written.
    """
    choice = _choice(bundle, variant, backend, allow_unverified=allow_unverified)
    unverified = not (bundle.manifest.verified and bundle.variant(choice.variant).verified)
    engine = any(name.endswith(".tensorrt") for name in bundle.manifest.engines)
    requirements = pinned(*_ALWAYS, choice.backend)
    jetson = pinned(*_ALWAYS, "onnxruntime", *(_ON_JETSON if engine else ()))
    result = DockerContext(
        path=destination,
        variant=choice.variant,
        backend=choice.backend,
        jetson="tensorrt" if engine else "onnxruntime",
        requirements=requirements,
        notes=(*bundle.alarms(), *_notes(bundle, engine=engine)),
    )
    facts = {key: value for key, value in result.to_json().items() if key != "path"}
    with packaged(bundle, destination, "docker", facts, force=force) as folder:
        _copy(bundle, folder / "bundle")
        wheel = write_wheel(folder).name
        server, on_jetson = ("--variant", choice.variant, "--backend", choice.backend), ("--backend", result.jetson)
        for name, base, listed, pins, options in (
            ("Dockerfile", config.server_base, "requirements.txt", requirements, server),
            ("Dockerfile.l4t", config.jetson_base, "requirements-l4t.txt", jetson, on_jetson),
        ):
            text = _dockerfile(
                base, listed, wheel, config.port, _command(config, unverified, *options), verify=not unverified
            )
            write_bytes(folder / name, text.encode())
            write_bytes(folder / listed, ("\n".join(pins) + "\n").encode())
        write_bytes(folder / ".dockerignore", b"README.md\nDockerfile*\nedgecnn-package.json\n")
        write_bytes(folder / "README.md", _readme(bundle, result, config, unverified=unverified).encode())
    return result


def _choice(bundle: Bundle, variant: str | None, backend: str | None, *, allow_unverified: bool) -> Choice:
    """Choose what the image for servers runs. Raises UserError, BundleUnverifiedError."""
    if backend not in (None, "auto", "onnxruntime", "openvino"):
        raise UserError(
            f"the image for servers runs onnxruntime or openvino, not {backend!r}; a Jetson's runs the bundle's TensorRT engine"
        )
    choice = bundle.choose(variant, backend)
    check_verified(bundle, choice.variant, choice.backend, allow_unverified=allow_unverified)
    return choice


def pinned(*names: str) -> tuple[str, ...]:
    """Return ``name==version`` of distributions and of all that they need, as installed here, sorted.

    Extras are not followed. What a distribution needs on other systems or versions of Python alone is not installed, and so left out.

    Raises:
        MissingDependencyError: one of ``names`` is not installed.
    """
    found: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        own = _distribution(name) or _distribution(_ALIKE.get(name, name))
        if own is None:
            if name in names:
                need(_MODULE.get(name, name.replace("-", "_")))  # says how to install it
                raise UserError(f"{name} can be imported, and has no version: install it with pip") from None
            continue
        found[name] = own.version.partition("+")[0]
        for line in own.requires or ():
            requirement, _, marker = line.partition(";")
            if "extra" not in marker and (match := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())):
                todo.append(match.group())
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


_ALIKE = {"onnxruntime": "onnxruntime-gpu"}
"""Of the same release and module: an image for a CPU takes the first, where the second was installed."""

_MODULE = {"pillow": "PIL", "cuda-bindings": "cuda.bindings", "cuda-core": "cuda.core"}


def _distribution(name: str) -> Distribution | None:
    """Return an installed distribution, if it is one."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _command(config: DockerConfig, unverified: bool, *more: str) -> list[str]:
    """Return what the container runs."""
    everywhere = "0.0.0.0"  # noqa: S104 -- inside a container, whose engine decides what is published
    line = [
        "python3",
        "-m",
        "edgecnn.examples.service",
        "bundle",
        "--host",
        everywhere,
        "--port",
        str(config.port),
        *more,
    ]
    return [*line, "--allow-unverified"] if unverified else line


def _copy(bundle: Bundle, folder: Path) -> None:
    """Copy the bundle's own files, and nothing else that may lie in its folder."""
    for name in (MANIFEST, *bundle.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(regular_file(bundle.path, name)[0], folder / name)


def _dockerfile(base: str, requirements: str, wheel: str, port: int, command: list[str], *, verify: bool) -> str:
    """Return a Dockerfile. Instructions that change least come first, so that a new bundle does not install anything again."""
    health = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/healthz', timeout=4)"
    proof = 'RUN ["python3", "-m", "edgecnn", "verify", "bundle"]\n' if verify else ""
    return f"""# Written by edgecnn package --docker (edgecnn {__version__}). Never built where it was written: there is no Docker there.
ARG BASE={base}
FROM ${{BASE}}

ENV PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    PIP_NO_CACHE_DIR=1 \\
    PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    PIP_BREAK_SYSTEM_PACKAGES=1 \\
    ORT_DISABLE_TELEMETRY=1 \\
    HOME=/tmp \\
    EDGECNN_CACHE=/var/cache/edgecnn

WORKDIR /app
COPY {requirements} {wheel} ./
RUN python3 -m pip install --no-deps -r {requirements} && python3 -m pip install --no-deps ./{wheel} \\
    && install -d -o {_USER} -g {_USER} /var/cache/edgecnn
COPY bundle ./bundle

# No rights, no home, nothing to write but /tmp and the cache of engines: docker run --read-only --tmpfs /tmp works.
USER {_USER}:{_USER}
{proof}
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-c", {json.dumps(health)}]
CMD {json.dumps(command)}
"""


def _notes(bundle: Bundle, *, engine: bool) -> tuple[str, ...]:
    """Return what whoever builds the images must know."""
    found = ["neither image was built when this was written: check the first build"]
    if engine:
        made = [record.facts.version for name, record in bundle.manifest.engines.items() if name.endswith(".tensorrt")]
        found.append(
            f"the bundle's engine was built by TensorRT {made[0]}; where the base image of Dockerfile.l4t has another, or the GPU is "
            "another, the service builds it anew when it starts, which takes minutes (keep EDGECNN_CACHE in a volume, see the README)"
        )
    else:
        found.append(
            "the bundle has no TensorRT engine, so that the image for a Jetson runs on its CPU: `edgecnn build BUNDLE --target tensorrt` "
            "on the Jetson, then package it again"
        )
    found.append(
        "Dockerfile.l4t is for JetPack 7 (Ubuntu 24.04): the L4T images of JetPack 6 have Python 3.10, and edgecnn needs 3.11. Its base "
        "must have the TensorRT that runs on your JetPack: --build-arg BASE=..., or --jetson-base"
    )
    return tuple(found)


def _readme(bundle: Bundle, made: DockerContext, config: DockerConfig, *, unverified: bool) -> str:
    """Return the README of the folder."""
    notes = "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in made.notes)
    port = config.port
    proof = "The build verifies the bundle (`edgecnn verify`), and fails where it does not compute what PyTorch did."
    if unverified:
        proof = "The bundle failed verification, and the build does not verify it."
    return f"""# {bundle.spec.name} in a container

Written by `edgecnn package --docker` (edgecnn {__version__}). The image for servers runs {made.variant} on {made.backend},
that for a Jetson {made.jetson}.

    docker build -t {bundle.spec.name.lower()} .
    docker run --rm -p {port}:{port} --read-only --tmpfs /tmp {bundle.spec.name.lower()}
    curl --data-binary @cat.jpg 'http://127.0.0.1:{port}/classify?top=3'

On a Jetson:

    docker build -f Dockerfile.l4t -t {bundle.spec.name.lower()}-l4t .
    docker run --rm --runtime nvidia -p {port}:{port} -v edgecnn:/var/cache/edgecnn {bundle.spec.name.lower()}-l4t

{proof} Packages are pinned to the versions that
packaged it; the base images are `--build-arg BASE=...`, and want a digest where builds must be the same for ever. The service follows its
bundle: a container whose `/app` is a volume serves a newer one as soon as the folder `bundle` in it is replaced.

## What you must know

{notes}"""
