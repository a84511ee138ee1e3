"""Requests that wait for one model: bounded, each with a deadline, computed in batches of what waits."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.runtime.session import OtherLogits
from robustcls.serving.config import ServeConfig
from robustcls.serving.metrics import Metrics
from robustcls.serving.model import ServedModel
from robustcls.serving.process import Died, Outcome, Process
from robustcls.serving.protocol import Request
from robustcls.serving.refused import Refused

DEATHS = 2  # of processes with one request alone in hand, after which it is the request's fault
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds before a process is started anew, by failures in a row
SMOOTHING = 0.1  # weight of the latest batch in the seconds that an image takes


@dataclass(eq=False)
class Job:
    """A request that waits."""

    request: Request
    since: float  # by the loop's clock
    deadline: float
    done: asyncio.Future
    deaths: int = 0  # of processes that had it in hand

    def parts(self) -> tuple[dict[str, Any], list[bytes | memoryview]]:
        """As the process takes it."""
        if (pixels := self.request.pixels) is None:
            return {"kind": "files", "sizes": [len(one) for one in self.request.encoded]}, [*self.request.encoded]
        kind = "UINT8" if pixels.dtype.kind == "u" else "FP32"
        return {"kind": kind, "n": len(pixels)}, [numpy.ascontiguousarray(pixels).reshape(-1).view("u1").data]


@dataclass
class Queue:
    """Of one model. `run` computes what waits for as long as the service lives."""

    model: ServedModel
    config: ServeConfig
    metrics: Metrics
    threads: int
    say: Callable[[str], None]
    waiting: deque[Job] = field(default_factory=deque)
    process: Process | None = None  # None while there is none that is ready
    broken: str = ""  # why no process can be started
    seconds_per_image: float = 0.0
    images: int = 0  # that wait or are computed
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def names(self) -> tuple[str, str]:
        return self.model.name, self.model.version

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.child.poll() is None

    async def answer(self, request: Request, deadline: float) -> NDArray[numpy.float32]:
        """The logits N,K of a request. Raises Refused."""
        self.check_room(deadline)
        loop = asyncio.get_running_loop()
        job = Job(request, loop.time(), deadline, loop.create_future())
        self.waiting.append(job)
        self.images += request.count
        self._counted()
        try:
            async with asyncio.timeout_at(deadline):
                logits: NDArray[numpy.float32] = await job.done
                return logits
        except TimeoutError:
            raise Refused("deadline", f"not answered within {self.config.timeout:g} s", 504) from None
        finally:
            job.done.cancel()  # nobody waits for it any more
            self.images -= request.count
            if job in self.waiting:  # where it is not, the error of remove() would write out its pixels
                self.waiting.remove(job)
            self._counted()

    def check_room(self, deadline: float) -> None:
        """Raises Refused where a request would wait too long: asked before its body is read, so that a refusal costs little."""
        wait = self.images * self.seconds_per_image
        if self.broken:
            raise Refused("busy", "the model cannot be computed at present: try again", 503, retry_after=BACKOFF[-1])
        if len(self.waiting) >= self.config.queue:
            raise Refused("busy", f"{len(self.waiting)} requests wait already: try again", 503, retry_after=wait)
        if asyncio.get_running_loop().time() + wait > deadline:
            raise Refused("busy", f"the requests that wait take {wait:.1f} s: try again", 503, retry_after=wait)

    async def run(self) -> None:
        """Keeps a process running, and computes what waits. Raises InputError where the first one cannot be started."""
        failures, first = 0, True
        while True:
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
            try:
                self.process = await Process.start(
                    self.model.folder, self.model.digest, self.threads, self.config.batch, self.config.max_pixels
                )
            except (InputError, Died, OSError) as error:  # OSError: no descriptors or memory for a process just now
                if isinstance(error, OtherLogits):
                    self.metrics.reference.labels(*self.names).set(error.largest)
                why = str(error) or "the process that computes ended at its start"
                if first:
                    raise InputError(f"{self.model.folder}: {why}" if isinstance(error, Died) else why) from None
                if why != self.broken:
                    self.say(f"{self.model.name} cannot be served: {why}")
                self.broken, failures = why, failures + 1
                continue
            self.broken, first, failures = "", False, 0
            self.metrics.reference.labels(*self.names).set(self.process.difference)
            try:
                await self._compute_until_it_ends(self.process)
            finally:
                process, self.process = self.process, None
                await process.stop()
            self.metrics.restarts.labels(*self.names).inc()
            self.say(
                f"the process that computes {self.model.name} ended (status {process.child.returncode}): starting another"
            )

    async def _compute_until_it_ends(self, process: Process) -> None:
        end = asyncio.ensure_future(process.ended())
        try:
            while not end.done():
                if not self.waiting:
                    self._news.clear()
                    news = asyncio.ensure_future(self._news.wait())
                    await asyncio.wait({news, end}, return_when=asyncio.FIRST_COMPLETED)
                    news.cancel()
                    continue
                batch = self._take()
                if not batch:
                    continue
                try:
                    await self._compute(process, batch)
                except Died:
                    self._put_back(batch)
                    return
        finally:
            end.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await end

    def _take(self) -> list[Job]:
        """What is computed next: jobs in their order, to the images of a batch; one that ended a process, alone."""
        batch: list[Job] = []
        images, now = 0, asyncio.get_running_loop().time()
        while self.waiting:
            job = self.waiting[0]
            if job.done.done() or job.deadline <= now:
                self.waiting.popleft()
                continue
            if batch and (images + job.request.count > self.config.batch or job.deaths):
                break
            batch.append(self.waiting.popleft())
            images += job.request.count
            self.metrics.queue_seconds.labels(*self.names).observe(now - job.since)
            if job.deaths:
                break
        self._counted()
        return batch

    async def _compute(self, process: Process, batch: list[Job]) -> None:
        packed = [job.parts() for job in batch]
        last = max(job.deadline for job in batch) + self.config.timeout
        try:
            async with asyncio.timeout_at(last):
                outcome = await process.compute(
                    [head for head, _ in packed], [part for _, parts in packed for part in parts]
                )
        except TimeoutError:  # nobody waits for it any more, and others wait behind it
            self.say(f"the process that computes {self.model.name} does not answer: ending it")
            process.child.kill()
            raise Died from None
        images = sum(len(found) for found in outcome.items if not isinstance(found, str))
        self._observe(outcome, images)
        for job, found in zip(batch, outcome.items, strict=True):
            if job.done.done():
                continue
            if isinstance(found, str):
                job.done.set_exception(Refused("decoding", found))
            elif not numpy.isfinite(found).all():
                job.done.set_exception(Refused("values", "the model's logits of these images are not finite", 422))
            else:
                job.done.set_result(found)

    def _observe(self, outcome: Outcome, images: int) -> None:
        self.metrics.decode_seconds.labels(*self.names).observe(outcome.decode)
        if images:
            self.metrics.batch_images.labels(*self.names).observe(images)
            self.metrics.inference_seconds.labels(*self.names).observe(outcome.inference)
            latest = (outcome.decode + outcome.inference) / images
            past = self.seconds_per_image
            self.seconds_per_image = past + SMOOTHING * (latest - past) if past else latest

    def _put_back(self, batch: list[Job]) -> None:
        """What a process had in hand when it ended: to be computed again, each alone; twice alone, and it is to blame."""
        for job in reversed(batch):
            job.deaths += 1
            if job.deaths <= DEATHS:
                self.waiting.appendleft(job)
            elif not job.done.done():
                encoded = job.request.pixels is None
                what = "decoding it ended the process" if encoded else "computing it ended the process each time"
                job.done.set_exception(Refused("decoding", what, 400 if encoded else 500))
        self._counted()

    def _counted(self) -> None:
        self.metrics.queued.labels(*self.names).set(len(self.waiting))
        self._news.set()
