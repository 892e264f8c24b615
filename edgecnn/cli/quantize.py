"""``edgecnn quantize``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.options import InputSize, Triple, quantize_config, quantize_options, usage
from edgecnn.cli.output import common_options, console, emit, progress_bar
from edgecnn.cli.placement import print_decisions

if TYPE_CHECKING:
    from edgecnn.artifacts import OnnxModel
    from edgecnn.spec import Preprocess

__all__ = ["command"]


@click.command("quantize")
@click.argument("onnx", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--calib", required=True, metavar="SRC", help="Folder of images, .npz, .npy or 'photos'.")
@click.option("--calib-images", type=click.IntRange(min=1), default=128, help="How many at most. [128]")
@click.option("--scheme", type=click.Choice(["int8", "int8-cpu"]), default="int8", help="For TensorRT or a CPU. [int8]")
@quantize_options
@click.option("--mean", type=Triple(), help="[the file's own, else ImageNet's]")
@click.option("--std", type=Triple(), help="[the file's own, else ImageNet's]")
@click.option("--input-size", type=InputSize(), help="Where the file leaves it open.")
@click.option("--layers", is_flag=True, help="Print every node's decision with its reason.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common_options
def command(onnx: Path, out: Path, layers: bool, force: bool, as_json: bool, **options: Any) -> None:
    """Quantize an ONNX file to INT8 with explicit Q/DQ."""
    from edgecnn.artifacts import cache_dir
    from edgecnn.calib import open_samples
    from edgecnn.calib.synthetic import parse_synthetic
    from edgecnn.errors import DataError, OutputError
    from edgecnn.onnxio import open_model
    from edgecnn.quantize import quantize
    from edgecnn.writing import check_writable

    config = quantize_config(options, options["scheme"])
    with usage():
        synthetic = parse_synthetic(options["calib"])
    if out.exists() and not force:
        raise OutputError(f"{out} exists already: choose another file, or replace it with --force")
    check_writable(out)
    if synthetic is not None:
        raise DataError(
            f"--calib {options['calib']} makes images from the PyTorch network, and {onnx.name} holds only its graph, without "
            "BatchNorm statistics: use 'edgecnn export MODEL --int8 --calib synthetic', or give --calib a folder or photos"
        )
    model = open_model(onnx)
    preprocess = _preprocess(model, options["mean"], options["std"], options["input_size"])
    samples = open_samples(options["calib"], preprocess, options["calib_images"], model.inputs[0].name)
    with progress_bar(as_json) as progress:
        result = quantize(model, samples, config, to=out, cache=cache_dir() / "calibration", progress=progress)
    placement = result.placement.to_json()
    if as_json:
        emit(
            {
                "out": str(out),
                "sha256": result.model.sha256,
                "calibration": samples.describe(),
                "reused": result.ranges.reused,
                "chosen": None if result.choice is None else result.choice.to_json(),
                "placement": placement,
                "equalized": None if result.equalized is None else result.equalized.to_json(),
            }
        )
        return
    if result.choice is not None:
        console().print(str(result.choice), markup=False)
    if result.equalized is not None:
        console().print(str(result.equalized), markup=False)
    counts = f"{placement['quantized']} nodes in INT8, {placement['float']} in float"
    if layers:
        print_decisions(placement["decisions"])
    console().print(f"{out}: {counts}{'' if layers else '; the reasons: --layers, or --json'}", markup=False)


def _preprocess(
    model: OnnxModel,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    size: tuple[int, int, int] | None,
) -> Preprocess:
    """Return the preprocessing: the file's own where edgecnn wrote it, else made from its input and the options."""
    from edgecnn.errors import SpecError
    from edgecnn.onnxio import read_metadata
    from edgecnn.spec import Preprocess

    own = read_metadata(model.path).get("edgecnn.preprocess")
    if own and not (mean or std or size):
        return Preprocess.from_json(json.loads(own))
    shape = model.inputs[0].shape
    found = size or tuple(dim for dim in shape[1:] if isinstance(dim, int))
    if len(shape) != 4 or len(found) != 3:
        raise SpecError(f"{model.path.name} takes {list(shape)}: give its channels, height and width with --input-size")
    channels, height, width = found
    if channels == 1:
        return Preprocess(
            size=(height, width), resize=max(height, width) * 8 // 7, colour="L", mean=mean or (0.5,), std=std or (0.5,)
        )
    default = Preprocess()
    return Preprocess(
        size=(height, width), resize=max(height, width) * 8 // 7, mean=mean or default.mean, std=std or default.std
    )
