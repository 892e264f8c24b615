"""What the tests of the main job share: a specification for small networks of four classes."""

from __future__ import annotations

from edgecnn.spec import ModelSpec, Preprocess, TensorSpec

SPEC = ModelSpec(
    name="net",
    builder="net:build",
    family="user",
    num_classes=4,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 32, 32)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 4)),),
    preprocess=Preprocess(size=(32, 32), resize=36),
)
