"""Many callers, one model: everyone gets their own answer or their own error, and a full queue does what its policy says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import CLASSES, photos

from edgecnn.errors import BackendError, BusyError, DataError, DroppedError, UserError
from edgecnn.runtime import (
    Batching,
    Classifier,
    DropOldest,
    FakeSession,
    OpenVinoOptions,
    OrtOptions,
    Prediction,
    Refuse,
    Service,
    Wait,
    WhenFull,
)
from edgecnn.spec import TensorSpec

INPUT, OUTPUT = (
    TensorSpec(name="input", shape=("batch", 3, 32, 32)),
    TensorSpec(name="logits", shape=("batch", CLASSES)),
)
GREYS = [20, 70, 120, 170, 220]


def grey(index: int) -> np.ndarray:
    """Return a picture that the fake model below puts into class ``index``."""
    return np.full((40, 40, 3), GREYS[index], np.uint8)


def by_brightness(feed: Any) -> dict[str, np.ndarray]:
    """Answer with the class whose grey is the nearest."""
    grey = (feed["input"][:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
    return {"logits": -np.abs(grey[:, None] - np.array(GREYS)[None]).astype(np.float32)}


def slowly(seconds: float) -> Callable[[Any], dict[str, np.ndarray]]:
    """Return a model that takes its time."""

    def respond(feed: Any) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        return by_brightness(feed)

    return respond


class Gate:
    """A model that runs when it is let."""

    def __init__(self, respond: Callable[[Any], dict[str, np.ndarray]] = by_brightness) -> None:
        self.entered, self.open, self.respond = threading.Semaphore(0), threading.Event(), respond
        self.sizes: list[int] = []

    def __call__(self, feed: Any) -> dict[str, np.ndarray]:
        self.sizes.append(len(feed["input"]))
        self.entered.release()
        assert self.open.wait(20)
        return self.respond(feed)


def fake(tiny: Path, respond: Callable[[Any], dict[str, np.ndarray]] = by_brightness) -> Classifier:
    return Classifier(tiny, session=FakeSession([INPUT], [OUTPUT], respond))


@contextmanager
def held(tiny: Path, policy: WhenFull, **options: Any) -> Iterator[tuple[Service, Gate, Future[list[Prediction]]]]:
    """Give a service whose one worker is held in the model with a first picture of class 0, and an empty queue of 2."""
    gate = Gate()
    service = Service(fake(tiny, gate), Batching(largest=1), **{"capacity": 2, "when_full": policy, **options})
    first = service.submit(grey(0))
    assert gate.entered.acquire(timeout=20)
    try:
        yield service, gate, first
    finally:
        gate.open.set()
        service.close()


def classes(futures: Sequence[Future[list[Prediction]]]) -> list[int]:
    return [future.result(20)[0].index for future in futures]


def balanced(service: Service) -> bool:
    """Whether every accepted picture is accounted for."""
    s = service.stats()
    return s.accepted == s.answered + s.failed + s.dropped + s.cancelled + s.waiting + s.running


def test_one_picture_from_a_thread_and_from_a_coroutine(tiny: Path) -> None:
    picture = photos()[0]
    with Classifier(tiny, options=OrtOptions(threads=1)) as classify:
        expected = classify(picture, top=3)
    with Service(Classifier(tiny, options=OrtOptions(threads=1))) as service:
        assert service.submit(picture, top=3).result(20) == expected

        async def ask() -> list[Prediction]:
            return await service(picture, top=3)

        assert asyncio.run(ask()) == expected
        assert service.stats().answered == 2


@pytest.mark.parametrize(
    ("options", "workers"), [(None, 1), (None, 3), (OrtOptions(threads=1), 3), (OpenVinoOptions(threads=1), 2)]
)
def test_many_threads_get_their_own_answers(tiny: Path, options: Any, workers: int) -> None:
    """On a fake session, on onnxruntime and on OpenVINO: sixteen threads, half of which ask through an event loop."""
    classify = Classifier(tiny, "fp32", options=options) if options else fake(tiny)
    pictures = [grey(index) for index in range(CLASSES)] if options is None else photos(CLASSES)
    expected = [classify(picture) for picture in pictures]
    wrong: list[Any] = []
    service = Service(classify, Batching(largest=4, delay=0.001), capacity=8, workers=workers)

    def check(index: int, found: list[Prediction]) -> None:
        if [p.index for p in found] != [p.index for p in expected[index]] or found[0].probability != pytest.approx(
            expected[index][0].probability, rel=1e-4
        ):
            wrong.append((index, found))

    def work(start: int) -> None:
        for turn in range(25):
            index = (start + turn) % CLASSES
            check(index, service.submit(pictures[index]).result(60))

    async def work_async(start: int) -> None:
        async def one(index: int) -> None:
            check(index, await service(pictures[index]))

        await asyncio.gather(*(one((start + turn) % CLASSES) for turn in range(25)))

    with service, ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(work, i) if i % 2 else pool.submit(asyncio.run, work_async(i)) for i in range(16)]
        for job in jobs:
            job.result(120)
        stats = service.stats()
    assert not wrong
    assert (stats.accepted, stats.answered, stats.waiting, stats.running) == (400, 400, 0, 0)
    assert stats.batches < 400, "some were batched"
    if options is None:
        sizes = [len(call["input"]) for call in classify.session.calls[CLASSES:]]  # type: ignore[attr-defined]
        assert max(sizes) <= 4
        assert (sum(sizes), len(sizes)) == (400, stats.batches)


def test_batches_fill_up_while_the_model_is_busy(tiny: Path) -> None:
    gate = Gate()
    with Service(fake(tiny, gate), Batching(largest=4, delay=0)) as service:
        first = service.submit(grey(0))
        assert gate.entered.acquire(timeout=20)
        others = [service.submit(grey(index % CLASSES)) for index in range(6)]
        gate.open.set()
        assert classes([first, *others]) == [0, 0, 1, 2, 3, 4, 0]
    assert gate.sizes == [1, 4, 2]


def test_a_picture_waits_for_company_no_longer_than_the_delay(tiny: Path) -> None:
    with Service(fake(tiny), Batching(largest=2, delay=0.2)) as service:
        started = time.monotonic()
        service.submit(grey(0)).result(20)
        assert time.monotonic() - started >= 0.2
    with Service(fake(tiny), Batching(largest=2, delay=50)) as service:
        classes(
            [service.submit(grey(0)), service.submit(grey(1))]
        )  # a full batch does not wait: 20 s would be too late
        assert service.stats().batches == 1


def test_refuse(tiny: Path) -> None:
    with held(tiny, Refuse()) as (service, gate, first):
        futures = [first, service.submit(grey(1)), service.submit(grey(2))]
        with pytest.raises(BusyError, match="all 2 places of the queue are taken"):
            service.submit(grey(3))

        async def ask() -> None:
            await service(grey(3))

        with pytest.raises(BusyError):
            asyncio.run(ask())
        gate.open.set()
        assert classes(futures) == [0, 1, 2]
        assert service.stats().refused == 2
        assert balanced(service)


def test_a_refusal_says_when_to_come_back(tiny: Path) -> None:
    gate = Gate()
    gate.open.set()
    with Service(fake(tiny, gate), Batching(largest=1), capacity=1, when_full=Refuse()) as service:
        assert service.delay() == 0
        gate.respond = slowly(0.05)
        service.submit(grey(0)).result(20)
        assert service.delay() == 0, "nothing waits"
        gate.open.clear()
        held_back = [service.submit(grey(0))]
        assert gate.entered.acquire(timeout=20)
        assert gate.entered.acquire(timeout=20)
        held_back.append(service.submit(grey(0)))
        with pytest.raises(BusyError) as caught:
            service.submit(grey(0))
        assert 0.1 <= caught.value.retry_after < 20, "two pictures of at least 50 ms each"
        gate.open.set()
        wait(held_back, 20)


def test_drop_oldest(tiny: Path) -> None:
    with held(tiny, DropOldest()) as (service, gate, first):
        futures = [service.submit(grey(index)) for index in range(1, 5)]
        for dropped in futures[:2]:
            with pytest.raises(DroppedError, match="a newer picture"):
                dropped.result(20)
        gate.open.set()
        assert classes([first, *futures[2:]]) == [0, 3, 4]
        assert service.stats().dropped == 2
        assert balanced(service)


def test_a_callback_of_a_dropped_picture_may_use_the_service(tiny: Path) -> None:
    with held(tiny, DropOldest()) as (service, _, _):
        seen: list[int] = []
        service.submit(grey(1)).add_done_callback(lambda _: seen.append(service.stats().waiting))
        service.submit(grey(2))
        service.submit(grey(3))
        assert seen == [2]


def test_wait_holds_the_caller_up(tiny: Path) -> None:
    with held(tiny, Wait()) as (service, gate, first), ThreadPoolExecutor(1) as pool:
        futures = [first, service.submit(grey(1)), service.submit(grey(2))]
        late = pool.submit(service.submit, grey(3))
        time.sleep(0.1)
        assert not late.done()
        gate.open.set()
        assert classes([*futures, late.result(20)]) == [0, 1, 2, 3]


def test_wait_has_an_end(tiny: Path) -> None:
    with held(tiny, Wait(timeout=0.05)) as (service, _, _):
        service.submit(grey(1))
        service.submit(grey(2))
        with pytest.raises(BusyError, match=r"no room in the queue of 2 for 0\.05 s"):
            service.submit(grey(3))

        async def ask() -> None:
            await service(grey(3))

        with pytest.raises(BusyError, match="no room"):
            asyncio.run(ask())
        assert service.stats().refused == 2


def test_waiting_does_not_block_the_event_loop(tiny: Path) -> None:
    async def ask() -> list[int]:
        with held(tiny, Wait()) as (service, gate, _):
            tasks = [asyncio.create_task(service(grey(index % CLASSES))) for index in range(40)]
            await asyncio.sleep(0.05)
            assert service.stats().waiting == 2, "the rest waits for room"
            gate.open.set()
            return [(await task)[0].index for task in tasks]

    assert asyncio.run(ask()) == [index % CLASSES for index in range(40)]


def test_what_is_wrong_with_a_picture_is_raised_for_its_caller_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with held(tiny, Wait(), capacity=9) as (service, gate, first):
        service.batching = Batching(largest=4)
        futures = [first, *(service.submit(one) for one in (grey(1), tmp_path / "no.jpg", np.zeros((2, 2)), grey(4)))]
        gate.open.set()
        assert [future.exception(20) is None for future in futures] == [True, True, False, False, True]
        assert isinstance(futures[2].exception(), DataError)
        assert isinstance(futures[3].exception(), DataError)
        assert classes([futures[1], futures[4]]) == [1, 4]
        assert gate.sizes == [1, 2]
        assert service.stats().failed == 2


def test_nan_is_an_error_of_its_picture_alone(tiny: Path) -> None:
    def respond(feed: Any) -> dict[str, np.ndarray]:
        logits = by_brightness(feed)["logits"]
        logits[logits.argmax(1) == 2] = np.nan
        return {"logits": logits}

    with Service(fake(tiny, respond), Batching(largest=3, delay=5)) as service:
        futures = [service.submit(grey(index)) for index in (1, 2, 3)]
        with pytest.raises(BackendError, match="NaN"):
            futures[1].result(20)
        assert classes([futures[0], futures[2]]) == [1, 3]


def test_a_failing_backend_fails_its_batch_and_the_service_goes_on(tiny: Path) -> None:
    broken = [True]

    def respond(feed: Any) -> dict[str, np.ndarray]:
        if broken.pop() if broken else False:
            raise BackendError("out of memory")
        return by_brightness(feed)

    with Service(fake(tiny, respond), Batching(largest=2, delay=5)) as service:
        for future in [service.submit(grey(index)) for index in (1, 2)]:
            with pytest.raises(BackendError, match="out of memory"):
                future.result(20)
        assert classes([service.submit(grey(index)) for index in (3, 4)]) == [3, 4]
        assert (service.stats().failed, service.stats().answered) == (2, 2)


def test_cancelling_gives_the_place_back(tiny: Path) -> None:
    with held(tiny, Refuse()) as (service, gate, first):
        second, third = service.submit(grey(1)), service.submit(grey(2))
        assert not first.cancel(), "it is running"
        assert second.cancel()
        fourth = service.submit(grey(3))
        gate.open.set()
        assert classes([first, third, fourth]) == [0, 2, 3]
        with pytest.raises(CancelledError):
            second.result()
        assert service.stats().cancelled == 1
        assert balanced(service)
    assert gate.sizes == [1, 1, 1]


def test_cancelling_a_task_cancels_its_request(tiny: Path) -> None:
    async def ask() -> None:
        with held(tiny, Wait()) as (service, gate, _):
            task = asyncio.create_task(service(grey(1)))
            late = [asyncio.create_task(service(grey(2))) for _ in range(3)]
            await asyncio.sleep(0.02)
            for one in (task, late[-1]):  # one in the queue, one that waits for room
                one.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await one
            gate.open.set()
            assert [(await one)[0].index for one in late[:-1]] == [2, 2]
            assert service.stats().cancelled == 1
            assert balanced(service)

    asyncio.run(ask())


def test_close_drains(tiny: Path) -> None:
    gate = Gate()
    service = Service(fake(tiny, gate), Batching(largest=2))
    futures = [service.submit(grey(index)) for index in range(5)]
    threading.Timer(0.05, gate.open.set).start()
    service.close()
    service.close()
    assert classes(futures) == [0, 1, 2, 3, 4]
    for ask in (lambda: service.submit(grey(0)), lambda: asyncio.run(service(grey(0)))):  # type: ignore[arg-type]
        with pytest.raises(UserError, match="this service is closed"):
            ask()
    with pytest.raises(UserError, match="closed"):
        service.classifier.try_batch([grey(0)], [1])


def test_close_aborts(tiny: Path) -> None:
    with held(tiny, Wait()) as (service, gate, first), ThreadPoolExecutor(2) as pool:
        waiting = [service.submit(grey(1)), service.submit(grey(2))]
        blocked = pool.submit(service.submit, grey(3))
        time.sleep(0.05)
        closing = pool.submit(service.close, drain=False)
        for future in (*waiting, blocked):
            with pytest.raises(UserError, match="closed"):
                future.result(20)
        assert not closing.done(), "what is in work is finished"
        gate.open.set()
        closing.result(20)
        assert classes([first]) == [0]
        assert gate.sizes == [1]
        assert balanced(service)


def test_an_exception_in_the_block_aborts(tiny: Path) -> None:
    gate = Gate()
    with pytest.raises(KeyError), Service(fake(tiny, gate), Batching(largest=1)) as service:
        first, second = service.submit(grey(0)), service.submit(grey(1))
        assert gate.entered.acquire(timeout=20)
        second.add_done_callback(lambda _: gate.open.set())
        raise KeyError
    assert classes([first]) == [0]
    with pytest.raises(UserError, match="closed before"):
        second.result(20)


def test_closing_from_a_callback(tiny: Path) -> None:
    service = Service(fake(tiny))
    done = threading.Event()
    future = service.submit(grey(0))
    future.add_done_callback(lambda _: (service.close(), done.set()))
    assert done.wait(20)


def test_stress_every_policy_accounts_for_every_picture(tiny: Path) -> None:
    for policy in (Wait(), Wait(timeout=0.001), Refuse(), DropOldest()):
        batching = Batching(largest=3, delay=0)
        service = Service(fake(tiny, slowly(0.0005)), batching, capacity=3, when_full=policy, workers=2)
        ended = {"answered": 0, "dropped": 0, "refused": 0, "cancelled": 0}
        lock = threading.Lock()

        def work(seed: int, service: Service = service, ended: dict[str, int] = ended, lock: Any = lock) -> None:
            draw = np.random.default_rng(seed)
            for _ in range(30):
                index = int(draw.integers(CLASSES))
                try:
                    future = service.submit(grey(index))
                    if draw.random() < 0.1:
                        future.cancel()
                    assert future.result(60)[0].index == index
                    how = "answered"
                except DroppedError:
                    how = "dropped"
                except BusyError:
                    how = "refused"
                except CancelledError:
                    how = "cancelled"
                with lock:
                    ended[how] += 1

        with service, ThreadPoolExecutor(8) as pool:
            for job in [pool.submit(work, seed) for seed in range(8)]:
                job.result(120)
        stats = service.stats()
        assert sum(ended.values()) == 240
        assert {name: getattr(stats, name) for name in ended} == ended, policy
        assert balanced(service)


def test_warm_up_runs_alone_and_in_the_largest_batch(tiny: Path) -> None:
    classify = fake(tiny)
    with Service(classify, Batching(largest=4)) as service:
        assert service.warm_up(runs=2) > 0
        assert service.stats().accepted == 0
    calls = classify.session.calls  # type: ignore[attr-defined]
    assert [len(call["input"]) for call in calls] == [1, 1, 4, 4]
    assert all(call["input"].std() > 0.1 for call in calls), "zeros would be too easy for some kernels"


@pytest.mark.parametrize("options", [{"batch_sizes": ()}, {"batch_sizes": (0,)}, {"runs": 0}])
def test_wrong_warm_up(tiny: Path, options: dict[str, Any]) -> None:
    with fake(tiny) as classify, pytest.raises(UserError, match="warm_up needs"):
        classify.warm_up(**options)


def test_wrong_values(tiny: Path) -> None:
    for make in (
        lambda: Batching(largest=0),
        lambda: Batching(largest=True),
        lambda: Batching(delay=-1),
        lambda: Batching(delay=float("nan")),
        lambda: Wait(timeout=0),
        lambda: Service(fake(tiny), capacity=0),
        lambda: Service(fake(tiny), workers=0),
    ):
        with pytest.raises(UserError, match=r"must be|needs"):
            make()  # type: ignore[no-untyped-call]
    with Service(fake(tiny)) as service:
        for top in (0, "5", True):
            with pytest.raises(UserError, match="top must be"):
                service.submit(grey(0), top)  # type: ignore[arg-type]
        assert service.stats().accepted == 0
