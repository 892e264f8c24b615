"""What an application embeds: open a bundle, run it, classify pictures.

Needs numpy; decoding pictures needs Pillow, and running onnxruntime, OpenVINO or TensorRT, each imported when first used. PyTorch, onnx
and the command line's packages are never touched.

::

    from edgecnn.runtime import Classifier, load

    with Classifier("efficientnet_lite0-int8") as classify:
        print(classify("cat.jpg")[0])

    with Service(Classifier("efficientnet_lite0-int8"), when_full=Refuse()) as service:  # for many callers; docs/EMBED.md
        print(service.submit("cat.jpg").result()[0])

    session = load("efficientnet_lite0-int8", variant="fp32")
    logits = session.run({"input": tensor})["logits"]
"""

from edgecnn.runtime.backpressure import DropOldest, Refuse, Wait, WhenFull
from edgecnn.runtime.bundle import Bundle, load
from edgecnn.runtime.choice import AutoOptions, Choice
from edgecnn.runtime.classifier import Classifier, Prediction, softmax
from edgecnn.runtime.device_array import DeviceArray
from edgecnn.runtime.fake import FakeSession
from edgecnn.runtime.golden import SelfTest, selftest
from edgecnn.runtime.manifest import Manifest, Speed, Variant
from edgecnn.runtime.openvino import OpenVinoOptions, OpenVinoSession
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.reload import HotClassifier, Reloaded, ReloadFailed
from edgecnn.runtime.service import Batching, Service, ServiceStats
from edgecnn.runtime.session import Array, Session
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession

__all__ = [
    "Array",
    "AutoOptions",
    "Batching",
    "Bundle",
    "Choice",
    "Classifier",
    "DeviceArray",
    "DropOldest",
    "FakeSession",
    "HotClassifier",
    "Manifest",
    "OpenVinoOptions",
    "OpenVinoSession",
    "OrtOptions",
    "OrtSession",
    "Prediction",
    "Refuse",
    "ReloadFailed",
    "Reloaded",
    "SelfTest",
    "Service",
    "ServiceStats",
    "Session",
    "Speed",
    "TensorRtOptions",
    "TensorRtSession",
    "Variant",
    "Wait",
    "WhenFull",
    "load",
    "selftest",
    "softmax",
]
