"""A service: its models, and the state that they share."""

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.serving.config import ServeConfig, processors
from robustcls.serving.metrics import Metrics
from robustcls.serving.model import ServedModel
from robustcls.serving.protocol import Answer, Request, answer
from robustcls.serving.queue import Queue
from robustcls.serving.refused import Refused

BODIES = 8  # memory limit for the bodies of all requests, in multiples of the largest body


@dataclass
class Service:
    """The models and the state behind the HTTP application. Call `start` and `stop` in its event loop."""

    config: ServeConfig
    models: dict[str, dict[str, Queue]]  # by name and version; the last version of a name is the default
    metrics: Metrics
    say: Callable[[str], None]
    draining: bool = False
    held: int = 0  # bytes of the bodies in memory
    failed: InputError | None = None  # why a model could not be started at all
    fault: str = ""  # an error after which the service must be restarted
    _tasks: list[asyncio.Task] = field(default_factory=list)

    @classmethod
    def of(cls, specs: Sequence[str], config: ServeConfig, say: Callable[[str], None] = lambda line: None) -> "Service":
        """Create the service of the models `DIR` or `NAME=DIR`. Raises InputError."""
        found = [ServedModel.of(spec) for spec in specs]
        threads = config.threads or max(1, processors() // len(found))
        service = cls(config, {}, Metrics(), say)
        for model in found:
            versions = service.models.setdefault(model.name, {})
            if model.version in versions:
                raise InputError(f"{model.name} is given twice with the same file ({model.version}): name it once")
            versions[model.version] = Queue(model, config, service.metrics, threads, say)
            service.metrics.add_model(model, config.queue)
            for note in model.notes:
                say(f"note: {note}")
        service.metrics.ready.set_function(lambda: float(service.ready))
        return service

    @property
    def queues(self) -> list[Queue]:
        return [queue for versions in self.models.values() for queue in versions.values()]

    @property
    def at_hand(self) -> int:
        """Largest number of requests that are read, wait or are computed at a time, because reading may be the bottleneck."""
        return (self.config.queue + self.config.batch) * len(self.queues)

    @property
    def ready(self) -> bool:
        return not self.draining and all(queue.ready for queue in self.queues)

    def unready(self) -> list[str]:
        """The reasons why the service is not ready, for clients: without file names and error messages, which only the operator
        sees."""
        reasons = ["draining"] if self.draining else []
        return reasons + [
            f"{queue.model.name}: {'cannot be started' if queue.broken else 'starting'}"
            for queue in self.queues
            if not queue.ready
        ]

    def find(self, name: str, version: str | None) -> Queue:
        """Return the queue of a model; `version` None means the last one. Raises Refused if there is none."""
        versions = self.models.get(name)
        if versions is None:
            raise Refused("protocol", f"no model {name!r:.80}: the models are {', '.join(self.models)}", 404)
        if version is None:
            return list(versions.values())[-1]
        if version not in versions:
            raise Refused(
                "protocol", f"no version {version!r:.40} of {name}: the versions are {', '.join(versions)}", 404
            )
        return versions[version]

    async def infer(self, queue: Queue, request: Request, deadline: float) -> Answer:
        """Answer a request, and update the metrics. Raises Refused."""
        logits = await queue.answer(request, deadline)
        probabilities = softmax(logits)
        self._observe(queue, logits, probabilities)
        return answer(request, queue.model, logits, probabilities)

    def _observe(self, queue: Queue, logits: NDArray[numpy.float32], probabilities: NDArray[numpy.float64]) -> None:
        metrics, names, model = self.metrics, queue.names, queue.model
        for label, confidence in zip(logits.argmax(1).tolist(), probabilities.max(1).tolist(), strict=True):
            metrics.predictions.labels(*names, model.classes[label]).inc()
            metrics.confidence.labels(*names).observe(confidence)
        if model.drift is None:
            return
        for statistics in model.drift.add(probabilities):
            drifted = model.drift.has_drifted(statistics)
            metrics.drift_windows.labels(*names, str(drifted).lower()).inc()
            for label, statistic in zip(model.classes, statistics.tolist(), strict=True):
                metrics.drift.labels(*names, label).set(statistic)

    def start(self) -> None:
        """Start the worker process of each model."""
        self._tasks = [asyncio.create_task(self._keep(queue)) for queue in self.queues]

    async def _keep(self, queue: Queue) -> None:
        try:
            await queue.run()
        except InputError as error:
            self.failed = error
        except Exception:  # a bug in robustcls: reported to the operator
            self.fault = queue.broken = f"{queue.model.name} is no longer served"
            self.say(f"fault: {self.fault}: {traceback.format_exc()}")

    async def stop(self) -> None:
        """End the worker processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_ready(self, seconds: float) -> None:
        """Wait until all models are ready. Raises InputError if one cannot be started, or is not ready within `seconds`."""
        end = time.monotonic() + seconds
        while not self.ready:
            if self.failed:
                raise self.failed
            if time.monotonic() > end:
                raise InputError(f"not ready within {seconds:g} s: {'; '.join(self.unready())}")
            await asyncio.sleep(0.02)


def softmax(logits: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
    """The softmax of each row."""
    shifted = numpy.exp(logits.astype(numpy.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
