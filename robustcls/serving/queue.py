"""The bounded queue of requests for one model, each with a deadline; waiting requests are computed in batches."""

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

DEATHS = 2  # how often a process may end while computing a request before the request is refused
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds before a process is started again, by the number of failures in a row
SMOOTHING = 0.1  # weight of the latest batch in the moving average of the seconds per image


@dataclass(eq=False)
class Job:
    """A waiting request."""

    request: Request
    since: float  # when it was queued, by the event loop's clock
    deadline: float
    done: asyncio.Future
    deaths: int = 0  # how often a process ended while computing it

    def parts(self) -> tuple[dict[str, Any], list[bytes | memoryview]]:
        """The description and the data of the request, in the format of the worker process."""
        if (pixels := self.request.pixels) is None:
            return {"kind": "files", "sizes": [len(one) for one in self.request.encoded]}, [*self.request.encoded]
        kind = "UINT8" if pixels.dtype.kind == "u" else "FP32"
        return {"kind": kind, "n": len(pixels)}, [numpy.ascontiguousarray(pixels).reshape(-1).view("u1").data]


@dataclass
class Queue:
    """The queue of one model. `run` computes the waiting requests until the service ends."""

    model: ServedModel
    config: ServeConfig
    metrics: Metrics
    threads: int
    say: Callable[[str], None]
    waiting: deque[Job] = field(default_factory=deque)
    process: Process | None = None  # None while no process is ready
    broken: str = ""  # why no process can be started
    seconds_per_image: float = 0.0  # moving average
    images: int = 0  # number of images that wait or are being computed
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def names(self) -> tuple[str, str]:
        return self.model.name, self.model.version

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.child.poll() is None

    async def answer(self, request: Request, deadline: float) -> NDArray[numpy.float32]:
        """Return the logits N,K of a request. Raises Refused."""
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
            job.done.cancel()  # nobody waits for the result any more
            self.images -= request.count
            if job in self.waiting:  # without this check, the error message of remove() would contain all pixels
                self.waiting.remove(job)
            self._counted()

    def check_room(self, deadline: float) -> None:
        """Raise Refused if a request would wait too long. Called before its body is read, so that a refusal is cheap."""
        wait = self.images * self.seconds_per_image
        if self.broken:
            raise Refused("busy", "the model is not available at present: try again", 503, retry_after=BACKOFF[-1])
        if len(self.waiting) >= self.config.queue:
            raise Refused("busy", f"{len(self.waiting)} requests are already waiting: try again", 503, retry_after=wait)
        if asyncio.get_running_loop().time() + wait > deadline:
            raise Refused("busy", f"the waiting requests take {wait:.1f} s: try again", 503, retry_after=wait)

    async def run(self) -> None:
        """Keep a process running and compute waiting requests. Raises InputError if the first process cannot be started."""
        failures, first = 0, True
        while True:
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
            try:
                self.process = await Process.start(
                    self.model.folder, self.model.digest, self.threads, self.config.batch, self.config.max_pixels
                )
            except (
                InputError,
                Died,
                OSError,
            ) as error:  # OSError: too few file descriptors or too little memory for a process
                if isinstance(error, OtherLogits):
                    self.metrics.reference.labels(*self.names).set(error.largest)
                why = str(error) or "the worker process ended while it was starting"
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
                f"the worker process of {self.model.name} ended (status {process.child.returncode}): starting another"
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
        """Return the next batch: waiting jobs in order, up to the size of a batch. A job during which a process ended before
        is computed alone."""
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
        except TimeoutError:  # all clients of this batch have given up, and other requests wait behind it
            self.say(f"the worker process of {self.model.name} does not answer: ending it")
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
        """Queue the jobs again that a process was computing when it ended; each is then computed alone. A job during which more
        than DEATHS processes ended is refused."""
        for job in reversed(batch):
            job.deaths += 1
            if job.deaths <= DEATHS:
                self.waiting.appendleft(job)
            elif not job.done.done():
                encoded = job.request.pixels is None
                message = "decoding it ended the process" if encoded else "computing it ended the process each time"
                job.done.set_exception(Refused("decoding", message, 400 if encoded else 500))
        self._counted()

    def _counted(self) -> None:
        self.metrics.queued.labels(*self.names).set(len(self.waiting))
        self._news.set()
