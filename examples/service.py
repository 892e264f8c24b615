"""A bundle as an HTTP service: bounded in memory and in time, observable, and reloaded when its bundle is replaced.

::

    python -m edgecnn.examples.service efficientnet_lite0-int8 --port 8000
    curl --data-binary @cat.jpg 'http://127.0.0.1:8000/classify?top=3'

========================  =========================================================================================================
``POST /classify?top=5``  the picture's bytes are the body. 200; 413 too large; 422 not a picture; 503 with Retry-After: ask later
``GET /healthz``          200 while it answers, with what answers; 503 once it is closing
``GET /metrics``          for Prometheus
========================  =========================================================================================================

Needs ``pip install 'edgecnn[cpu,serve]'``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from edgecnn.errors import BusyError, DataError, EdgecnnError, UserError
from edgecnn.runtime import AutoOptions, Batching, HotClassifier, Refuse, Service, TensorRtOptions

LARGEST = 10 << 20
"""Bytes of a picture, at most."""

ENDS = ("answered", "failed", "refused", "cancelled")


class ServiceCollector(Collector):
    """The service's own counts, read when they are asked for."""

    def __init__(self, service: Service) -> None:
        """Hold the service."""
        self.service = service

    def collect(self) -> Iterator[Any]:
        """Yield the metrics."""
        stats = self.service.stats()
        ends = CounterMetricFamily("edgecnn_pictures", "Pictures, by how they ended.", labels=["end"])
        for end in ENDS:
            ends.add_metric([end], getattr(stats, end))
        yield ends
        yield CounterMetricFamily("edgecnn_batches", "Runs of the model.", value=stats.batches)
        yield CounterMetricFamily("edgecnn_busy_seconds", "Seconds that the workers worked.", value=stats.busy_seconds)
        yield GaugeMetricFamily("edgecnn_waiting", "Pictures in the queue.", value=stats.waiting)
        yield GaugeMetricFamily("edgecnn_running", "Pictures in work.", value=stats.running)


def create_app(service: Service, classifier: HotClassifier, *, largest: int = LARGEST) -> FastAPI:
    """Build the application, which closes the service when it ends.

    Args:
        service: with the policy Refuse, so that clients hear at once when there is no room.
        classifier: that the service runs.
        largest: bytes of a picture, at most.
    """
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    seconds = Histogram("edgecnn_seconds", "From a request's last byte to its answer.", registry=registry)
    closing = False

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal closing
        yield
        closing = True
        service.close()

    app = FastAPI(title="edgecnn", lifespan=lifespan)

    @app.post("/classify")
    async def classify(request: Request, top: Annotated[int, Query(ge=1, le=1000)] = 5) -> dict[str, Any]:
        picture = await read_body(request, largest)
        try:
            with seconds.time():
                predictions = await service(picture, top)
        except DataError as error:
            raise HTTPException(422, str(error)) from None
        except BusyError as error:
            headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
            raise HTTPException(503, str(error), headers) from None
        except UserError as error:  # closed meanwhile
            raise HTTPException(503, str(error)) from None
        except EdgecnnError as error:
            raise HTTPException(500, str(error)) from None
        return {
            "predictions": [{"index": p.index, "label": p.label, "probability": p.probability} for p in predictions]
        }

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        if closing:
            raise HTTPException(503, "closing")
        return {"model": classifier.bundle.spec.name, "variant": classifier.variant, "manifest": classifier.sha256}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def read_body(request: Request, largest: int) -> bytes:
    """Read a request's body, and stop at the byte that is one too many, whatever its headers said."""
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > largest:
        raise HTTPException(413, f"a picture may have {largest} bytes, this one has {said}")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > largest:
            raise HTTPException(413, f"a picture may have {largest} bytes")
    return bytes(body)


def session_options(backend: str, threads: int) -> AutoOptions | TensorRtOptions:
    """Return the options of a backend; an engine that does not fit this device is built anew, and kept in the cache folder."""
    if backend in ("tensorrt", "tensorrt-rtx"):
        from edgecnn.pipeline.engines import rebuilt

        return TensorRtOptions(flavour=backend, rebuild=rebuilt)  # type: ignore[arg-type]
    return AutoOptions(threads=threads)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m edgecnn.examples.service", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="[127.0.0.1: this machine alone]")
    parser.add_argument("--port", type=int, default=8000, help="[8000]")
    parser.add_argument("--variant", help="[what was measured to be fastest]")
    parser.add_argument("--backend", default="auto", help="onnxruntime, openvino, tensorrt, tensorrt-rtx [auto]")
    parser.add_argument("--threads", type=int, default=0, help="of one run; 0: as the backend chooses [0]")
    parser.add_argument("--batch", type=int, default=8, help="pictures to run at once, at most [8]")
    parser.add_argument("--allow-unverified", action="store_true", help="serve a bundle whose verification failed")
    parser.add_argument("--capacity", type=int, default=64, help="pictures that may wait [64]")
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 1 << 16:
        parser.error(f"--port takes 0 to 65535, found {options.port}")
    try:
        classifier = HotClassifier(
            options.bundle,
            options.variant,
            options.backend,
            options=session_options(options.backend, options.threads),
            allow_unverified=options.allow_unverified,
            warm_up=(1, options.batch),
        )
        service = Service(classifier, Batching(largest=options.batch), capacity=options.capacity, when_full=Refuse())
        service.warm_up()
    except EdgecnnError as error:
        raise SystemExit(f"error: {error}") from None
    uvicorn.run(create_app(service, classifier), host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
