"""The ``model.py`` of a Triton python-backend model: encoded pictures to the network's input, exactly as edgecnn calibrated and verified.

It is copied into the model repository and imported there by Triton, in whose Python edgecnn must be installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from edgecnn.errors import EdgecnnError
from edgecnn.runtime.preprocess import decode, fit, normalize
from edgecnn.spec import Preprocess

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the preprocessing that lies beside this file.

        Args:
            args: ``model_repository`` is this model's folder, ``model_version`` its version, ``model_config`` its configuration as JSON.
        """
        folder = Path(args["model_repository"]) / args["model_version"]
        self.preprocess = Preprocess.from_json(json.loads((folder / "preprocess.json").read_text(encoding="utf-8")))
        self.output = json.loads(args["model_config"])["output"][0]["name"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request with its own tensor, or its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """Decode, fit and normalise the pictures of one request: BYTES (N, 1) to float32 (N, C, H, W)."""
        pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
        try:
            pixels = np.stack([fit(decode(bytes(picture)), self.preprocess) for picture in pictures])
        except EdgecnnError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        tensor = pb_utils.Tensor(self.output, normalize(pixels, self.preprocess))
        return pb_utils.InferenceResponse(output_tensors=[tensor])
