"""The device's sensors while something is measured: power, energy, clocks, temperatures, throttling."""

from edgecnn.bench.telemetry.recorder import Recorder, Sensors, find_sensors, warnings_of
from edgecnn.bench.telemetry.sample import Sample

__all__ = ["Recorder", "Sample", "Sensors", "find_sensors", "warnings_of"]
