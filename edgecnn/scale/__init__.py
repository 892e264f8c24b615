"""Evaluation in many processes or on a cluster, that goes on where it was interrupted; and a whole matrix of it.

:func:`edgecnn.scale.run.evaluate_at_scale` is :func:`edgecnn.parity.evaluate.evaluate` in shards; :func:`edgecnn.scale.sweep.sweep` runs it
over bundles, variants and backends into one table. The processes are joblib's, Ray's or Dask's (:mod:`edgecnn.scale.executor`).
"""
