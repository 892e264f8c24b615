"""``edgecnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.engines import print_engines, print_gate
from edgecnn.cli.options import InputSize, Triple, quantize_config, quantize_options, usage
from edgecnn.cli.output import common_options, console, emit, number, progress_bar, table, warn

if TYPE_CHECKING:
    from edgecnn.pipeline import Outcome
    from edgecnn.spec import ModelSpec

__all__ = ["command"]


@click.command("export")
@click.argument("model")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the bundle. [MODEL-PRECISION]")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--weights", default="default", help="Entry name, 'package', a file, or random[:SEED]. [default]")
@click.option("--num-classes", type=click.IntRange(min=1), help="[the checkpoint's]")
@click.option("--input-size", type=InputSize(), help="Of your own network. [3x224x224]")
@click.option("--mean", type=Triple(), help="Per channel, of pixels in [0, 1]. [ImageNet's]")
@click.option("--std", type=Triple(), help="Per channel, of pixels in [0, 1]. [ImageNet's]")
@click.option("--labels", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--int8", is_flag=True, help="Also make an INT8 graph that TensorRT takes.")
@click.option("--fp16", is_flag=True, help="Also make an FP16 graph; with --int8 also one in both.")
@click.option(
    "--target",
    type=click.Choice(["auto", "cpu", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    help="cpu adds an INT8 graph for onnxruntime's integer kernels; tensorrt-rtx compiles engines, on any machine; tensorrt does on "
    "the device. [auto: cpu without an NVIDIA GPU]",
)
@click.option(
    "--calib",
    default="photos",
    metavar="SRC",
    help="Folder of images, .npz, .npy, 'photos', 'synthetic[:fast]' (made from the network), or 'photos+synthetic'. [photos]",
)
@click.option("--calib-images", type=click.IntRange(min=1), default=128, help="How many at most. [128]")
@quantize_options
@click.option(
    "--max-drop", type=float, metavar="POINTS", help="Top-1 (with labels in --data) or agreement INT8 may lose."
)
@click.option(
    "--min-sqnr", type=float, metavar="DB", help="Least SQNR of INT8's logits; layers return to float for it."
)
@click.option(
    "--gate",
    type=click.Choice(["latency"]),
    help="INT8 is the default only if it is faster: than fp16 where engines are built, which is made too; than fp32 on a CPU.",
)
@click.option(
    "--deform",
    type=click.Choice(["auto", "standard", "gridsample", "plugin"]),
    default="auto",
    help="Deformable convolutions as ONNX's own operator, as GridSample and MatMul, or as edgecnn::DeformConv2d. [auto: by --target]",
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Library of the engine's operators."
)
@click.option("--embed-preprocess", is_flag=True, help="The graph takes uint8 NHWC pixels and normalises inside.")
@click.option("--embed-softmax", is_flag=True, help="The graph gives probabilities.")
@click.option("--no-simplify", is_flag=True, help="Leave the exported graph as it is.")
@click.option("--data", type=click.Path(path_type=Path), help="Images to verify on. [calibration images left out]")
@click.option("--verify-images", type=click.IntRange(min=1), default=32, help="How many at most. [32]")
@click.option("--opset", type=int, default=20, help="[20]")
@click.option("--batch", type=click.IntRange(min=1), help="Static batch size. [dynamic]")
@click.option("--output", default="", help="Main output of a network that returns several.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="[as onnxruntime chooses]")
@click.option("--no-cache", is_flag=True, help="Calibrate anew.")
@common_options
def command(model: str, out: Path | None, as_json: bool, **options: Any) -> int:
    """Take MODEL from PyTorch to a verified bundle.

    MODEL is a name of the zoo (see 'edgecnn models'), or your own: path/to/net.py:build or package.module:build, a
    callable that returns an nn.Module.

    \b
    edgecnn export efficientnet_lite0 --int8 --calib photos/
    edgecnn export resnet50 --int8 --weights IMAGENET1K_V1
    edgecnn export net.py:build --input-size 3x64x64 --labels classes.txt

    Exits with 3 when a stage does not match PyTorch (the bundle is then marked unverified), an accuracy budget is missed, an
    engine does not have the precision that was asked for, or INT8 is not faster and --gate latency was given.
    """  # noqa: D301 -- click's mark for lines that stay as they are is a real backspace
    from edgecnn.pipeline import run

    spec = _spec(model, options)
    config = _config(options)
    destination = out or Path(f"{spec.name}-{config.precision}")
    with progress_bar(as_json) as progress:
        outcome = run(spec, config, to=destination, progress=progress)
    if as_json:
        emit(outcome.to_json())
    else:
        _print(outcome)
    return 0 if outcome else 3


def _spec(model: str, options: dict[str, Any]) -> ModelSpec:
    """Find the model; sizes and normalisation given on the command line are for the user's own networks."""
    from edgecnn import zoo

    given = {name: options[name] for name in ("input_size", "mean", "std") if options[name] is not None}
    if ":" in model or model.endswith(".py"):
        labels = str(options["labels"] or "")
        return zoo.user_spec(model, num_classes=options["num_classes"], labels=labels, **given)
    if options["labels"]:
        given["labels"] = options["labels"]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"{names}: the zoo's models bring their own; give these with path.py:function")
    return zoo.find(model)


def _config(options: dict[str, Any]) -> Any:
    """Build the job's configuration. Raises UsageError."""
    from edgecnn.export import ExportConfig
    from edgecnn.pipeline import PipelineConfig

    with usage():
        return PipelineConfig(
            export=ExportConfig(
                opset=options["opset"], batch=options["batch"], output=options["output"]
            ),
            quantize=quantize_config(options),
            budget=_budget(options),
            simplify=not options["no_simplify"],
            use_cache=not options["no_cache"],
            latency_gate=options["gate"] == "latency",
            **{
                name: options[name]
                for name in (
                    "weights", "num_classes", "int8", "fp16", "target", "calib", "calib_images", "deform", "embed_preprocess",
                    "embed_softmax", "data", "verify_images", "threads", "force", "plugins",
                )
            },
        )  # fmt: skip


def _budget(options: dict[str, Any]) -> Any:
    """Build the accuracy budget."""
    from edgecnn.quantize.search import Budget

    names = {"max_drop": "max_drop", "min_sqnr": "min_sqnr_db"}
    return Budget(**{name: options[option] for option, name in names.items() if options[option] is not None})


def _print(outcome: Outcome) -> None:
    """Print the verification and what was written."""
    from edgecnn.cli.parity import print_report

    bundle = outcome.bundle
    print_report(outcome.report)
    if nodes := outcome.nodes:
        console().print(f"simplified: {nodes['after']} nodes, {nodes['before']} as exported", markup=False)
    base = bundle.manifest.files[bundle.variants["fp32"].file].bytes
    rows = []
    for name, variant in bundle.variants.items():
        size = bundle.manifest.files[variant.file].bytes
        timing = outcome.timings.get(name)
        rows.append(
            (
                name,
                number(size / 1e6, 1),
                number(size / base),
                str(variant.nodes),
                number(timing.ratio if timing else None),
                _speed(name, timing),
                "yes" if variant.verified else "NO",
            )
        )
    table(("variant", "MB", "of fp32", "nodes", "time of fp32", "on this machine", "verified"), rows)
    print_engines(outcome.engines)
    print_gate(outcome.gate)
    for alarm in bundle.alarms():
        warn(alarm)
    for note in outcome.notes:
        console().print(f"note: {note}", markup=False)
    console().print(f"runs by default on this machine: {bundle.choose()}", markup=False)
    took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in outcome.seconds.items())
    out = console()
    out.print(f"{bundle.path} ({took})", markup=False)
    if not all(outcome.searches.values()):
        warn("the accuracy budget was not reached: the bundle holds the most accurate mixture that was found")
    if not outcome.report:
        warn(f"verification failed, so the bundle is marked unverified: try 'edgecnn verify {bundle.path} --bisect'")


def _speed(name: str, timing: Any) -> str:
    """Say whether a variant is faster than fp32 here."""
    if name == "fp32" or timing is None:
        return ""
    if timing.faster is None:
        return "no measurable difference"
    return "faster than fp32" if timing.faster else "slower than fp32"
