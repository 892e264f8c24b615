"""Weight correction: integer weights and biases chosen layer by layer, against the noise that the layers before leave."""

from edgecnn.quantize.correct.bias import MatchedBias
from edgecnn.quantize.correct.corrector import Correction
from edgecnn.quantize.correct.rounding import ErrorFeedback

__all__ = ["Correction", "ErrorFeedback", "MatchedBias"]
