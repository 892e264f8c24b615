"""ONNX transformations, one a file, each with a contract: what it requires, what it ensures, how much it changed."""

from collections.abc import Mapping
from types import MappingProxyType

from edgecnn.passes._base import Pass, run_passes
from edgecnn.passes.fold_batchnorm import FoldBatchNorm
from edgecnn.passes.fold_constants import FoldConstants
from edgecnn.passes.fold_pad import FoldPad
from edgecnn.passes.global_pool import GlobalPool
from edgecnn.passes.onnxsim import OnnxSim
from edgecnn.passes.remove_identity import RemoveIdentity
from edgecnn.passes.remove_unused import RemoveUnused

__all__ = [
    "SIMPLIFICATIONS",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldPad",
    "GlobalPool",
    "OnnxSim",
    "Pass",
    "RemoveIdentity",
    "RemoveUnused",
    "run_passes",
]

SIMPLIFICATIONS: Mapping[str, type[Pass]] = MappingProxyType(
    {kind.name: kind for kind in (RemoveIdentity, FoldConstants, FoldBatchNorm, FoldPad, GlobalPool, RemoveUnused)}
)
"""Exact passes that make a graph smaller or faster, by name, in the order in which they run."""
