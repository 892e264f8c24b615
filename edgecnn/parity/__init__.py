"""Does every form of the network compute the same thing? Metrics, tolerances, stages side by side, bisecting, accuracy.

Front modules: :func:`edgecnn.parity.stages.verify` compares the stages of a pipeline, :func:`edgecnn.parity.device.verify_bundle`
a bundle on the device it runs on, :func:`edgecnn.parity.bisect.bisect` finds the first layer that departs, and
:func:`edgecnn.parity.evaluate.evaluate` measures accuracy. Nothing heavy is imported before one of them works.
"""
