"""Engines: TensorRT and TensorRT-RTX."""
