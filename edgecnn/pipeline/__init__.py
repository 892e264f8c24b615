"""The main job: from a PyTorch classifier to a verified bundle."""

from edgecnn.pipeline.config import Outcome, PipelineConfig, Target
from edgecnn.pipeline.run import run

__all__ = ["Outcome", "PipelineConfig", "Target", "run"]
