"""The whole exception tree.

::

    EdgecnnError
    ├── UserError                 you can fix this: the message says how
    │   ├── SpecError             a model, preprocess or argument that does not describe anything we can build
    │   ├── MissingDependencyError  an optional package is absent: the message holds the install line
    │   ├── WeightsError          a checkpoint is missing, unreadable, or does not fit the model
    │   │   └── HashMismatchError   a file is not the one that was published or recorded
    │   ├── DataError             calibration or evaluation data that cannot be used
    │   ├── OutputError           the destination exists, or cannot be written
    │   ├── EngineMisfitError     a plan for another version, GPU or platform: the message holds the command that rebuilds it
    │   └── BundleError           a bundle that must not be used
    │       ├── BundleMissingError    no bundle there, or one of its files is gone
    │       ├── BundleCorruptError    a file is truncated, tampered with, or not what the manifest says
    │       ├── BundleSchemaError     written by a newer edgecnn, or not a manifest at all
    │       ├── BundlePathError       a path in the manifest leaves the bundle's folder
    │       └── BundleUnverifiedError verification failed when it was written; loading needs allow_unverified=True
    ├── ToolError                 a tool we called failed: the original exception is ``__cause__``
    │   ├── ExportError           torch.onnx could not export the network
    │   ├── GraphError            an ONNX graph that a pass or a quantizer cannot work on
    │   ├── BackendError          a runtime (onnxruntime, TensorRT) refused the model or the input
    │   └── RemoteError           a device over ssh: not reached, refused us, has no room, or lost the job
    │       └── DisconnectedError     the connection ended; another one may go on where it stopped
    └── BusyError                 more was asked of a service than its queue holds: ask again later
        └── DroppedError          a picture that waited gave its place to a newer one

A failed check is a result, not an exception: see :class:`edgecnn.parity.report.ParityReport`.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleCorruptError",
    "BundleError",
    "BundleMissingError",
    "BundlePathError",
    "BundleSchemaError",
    "BundleUnverifiedError",
    "BusyError",
    "DataError",
    "DisconnectedError",
    "DroppedError",
    "EdgecnnError",
    "EngineMisfitError",
    "ExportError",
    "GraphError",
    "HashMismatchError",
    "MissingDependencyError",
    "OutputError",
    "RemoteError",
    "SpecError",
    "ToolError",
    "UserError",
    "WeightsError",
]


class EdgecnnError(Exception):
    """Base of everything edgecnn raises on purpose. The message is one line or more of plain text for the user."""


class UserError(EdgecnnError):
    """Something the caller can fix; the message says how."""


class SpecError(UserError):
    """A model, preprocessing or argument that does not describe anything that can be built."""


class MissingDependencyError(UserError):
    """An optional package is absent; the message holds the line that installs it."""


class WeightsError(UserError):
    """A checkpoint is missing, unreadable, or does not fit the model."""


class HashMismatchError(WeightsError):
    """A file's hash is not the published or recorded one."""


class DataError(UserError):
    """Calibration or evaluation data that cannot be used."""


class OutputError(UserError):
    """The destination exists already, or cannot be written."""


class EngineMisfitError(UserError):
    """A plan that was built for another version, GPU or platform; the message holds the command that rebuilds it."""


class BundleError(UserError):
    """A bundle that must not be used."""


class BundleMissingError(BundleError):
    """There is no bundle at the path, or a file that its manifest names is gone."""


class BundleCorruptError(BundleError):
    """A file of the bundle is truncated, tampered with, or not what the manifest says."""


class BundleSchemaError(BundleError):
    """The manifest was written by a newer edgecnn, or is not a manifest."""


class BundlePathError(BundleError):
    """A path in the manifest leaves the bundle's folder."""


class BundleUnverifiedError(BundleError):
    """The bundle's verification failed; loading it needs ``allow_unverified=True``."""


class ToolError(EdgecnnError):
    """A tool that edgecnn called failed; the original exception is the ``__cause__``."""


class ExportError(ToolError):
    """torch.onnx could not export the network."""


class GraphError(ToolError):
    """An ONNX graph that a pass or a quantizer cannot work on."""


class BackendError(ToolError):
    """A runtime refused the model or the input."""


class BusyError(EdgecnnError):
    """More was asked of a service than its queue holds.

    Attributes:
        retry_after: seconds after which asking again makes sense; 0 where nothing was measured yet.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        """Hold the message and the seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class DroppedError(BusyError):
    """A picture that waited gave its place to a newer one."""


class RemoteError(ToolError):
    """A device over ssh could not be reached, refused us, has no room, or lost the job; the message names the device."""


class DisconnectedError(RemoteError):
    """The connection to a device ended; another one may go on where it stopped."""
