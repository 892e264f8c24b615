"""A bundle as other engines and containers take it: a model repository of Triton, the context of a container image."""

from edgecnn.package.docker import DockerConfig, DockerContext, write_docker
from edgecnn.package.triton import TritonConfig, TritonRepository, write_triton
from edgecnn.package.triton_backends import BACKENDS, OnnxRuntime, OpenVino, TensorRt, TritonBackend

__all__ = [
    "BACKENDS",
    "DockerConfig",
    "DockerContext",
    "OnnxRuntime",
    "OpenVino",
    "TensorRt",
    "TritonBackend",
    "TritonConfig",
    "TritonRepository",
    "write_docker",
    "write_triton",
]
