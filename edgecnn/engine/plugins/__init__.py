"""Operators of ours that TensorRT takes from Python, with their kernels baked into the engine."""
