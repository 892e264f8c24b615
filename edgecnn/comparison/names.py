"""Short names for a chart: ``wide_resnet50_2`` is written WRN-50-2."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["FAMILIES", "short"]

FAMILIES = {
    "alexnet": "AlexNet",
    "vgg": "VGG",
    "googlenet": "GoogLeNet",
    "inception": "Inception",
    "resnet": "ResNet",
    "densenet": "DenseNet",
    "senet": "SENet",
    "efficientnet": "EfficientNet",
    "mobilenet": "MobileNet",
    "deformable": "Deformable",
    "user": "Own",
}
"""Family of the zoo -> how it is written, in the order of a legend."""

_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"alexnet", "AlexNet"),
    (r"googlenet", "GoogLeNet"),
    (r"inception_v3", "Inception-v3"),
    (r"vgg(\d+)_bn", r"VGG-\1 BN"),
    (r"vgg(\d+)", r"VGG-\1"),
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"resnext(\d+)_(\w+)", r"ResNeXt-\1 \2"),
    (r"wide_resnet(\d+)_(\d)", r"WRN-\1-\2"),
    (r"densenet(\d+)", r"DenseNet-\1"),
    (r"seresnet(\d+)", r"SE-ResNet-\1"),
    (r"seresnext(\d+)_(\w+)", r"SE-ResNeXt-\1"),
    (r"efficientnet_b(\d)", r"B\1"),
    (r"efficientnet_v2_(\w)", lambda found: f"V2-{found[1].upper()}"),
    (r"(?:tf_)?efficientnet_lite(\d)", r"Lite\1"),
    (r"mobilenet_v2", "MobileNetV2"),
    (r"mobilenet_v3_(small|large)", lambda found: f"MobileNetV3-{found[1][0].upper()}"),
    (r"deform_resnet(\d+)_v(\d)", r"Deform-ResNet-\1 v\2"),
)


def short(name: str) -> str:
    """Return a model's name as a chart has room for it; a name that is not of the zoo stays as it is."""
    for pattern, text in _RULES:
        if found := re.fullmatch(pattern, name):
            return found.expand(text) if isinstance(text, str) else text(found)
    return name
