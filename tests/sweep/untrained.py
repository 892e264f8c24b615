"""Networks of the zoo as they are before training, but with activations of the sizes that training would give them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgecnn import zoo
from edgecnn.calib import Photos
from edgecnn.parity.samples import edge_inputs
from edgecnn.spec import ModelSpec

__all__ = ["untrained"]

GRAIN = 0.5
"""Standard deviation of the noise on the photos that BatchNorm takes its statistics from, in units of normalised images."""

BRANCH = 0.2
"""Standard deviation of a residual branch; that of what it is added to is one or more."""


def untrained(spec: ModelSpec) -> nn.Module:
    """Return the network as it is before training, with the statistics of real pictures in its BatchNorm layers."""
    torch.manual_seed(0)
    module = zoo.create(spec.name).train()
    for name, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean over the batches
        if name.endswith("conv_offset"):
            nn.init.normal_(part.weight, std=0.001)
        if getattr(part, "shortcut", False) or hasattr(part, "downsample"):
            norms = [
                norm for at, norm in part.named_modules() if isinstance(norm, nn.BatchNorm2d) and "downsample" not in at
            ]
            nn.init.constant_(norms[-1].weight, BRANCH)
    # Grain, since random filters, unlike trained ones, pass the highest frequencies, of which photos have almost nothing: an
    # input that has them would give logits hundreds of times as large as any photo's.
    photos = [feed["input"] for _, feed in zip(range(8), Photos(spec.preprocess, limit=8), strict=False)]
    edges = {sample.name: sample for sample in edge_inputs(spec.inputs[0], spec.preprocess)}
    board = torch.from_numpy(edges["checkerboard"].feed["input"])
    with torch.no_grad():
        for start in range(0, 8, 2):
            pictures = torch.from_numpy(np.concatenate(photos[start : start + 2]))
            module(torch.cat([pictures + GRAIN * torch.randn(pictures.shape), board]))
    return module.eval()
