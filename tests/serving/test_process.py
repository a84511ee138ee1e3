"""The compute process: it is replaced when it ends, and no accepted request is lost."""

import asyncio
import os
import shutil
import signal

import numpy
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from robustcls.core.errors import InputError
from robustcls.serving import process as processes
from robustcls.serving.config import ServeConfig
from robustcls.serving.process import Process
from robustcls.serving.protocol import Request
from robustcls.serving.refused import Refused
from robustcls.serving.service import Service
from tests.helpers.serving import small_artefact, some_images


def in_service(artefact, act, **options):
    """Run `act(service)` in its own event loop while the service runs."""

    async def run():
        service = Service.of([str(artefact)], ServeConfig(**options))
        service.start()
        try:
            await service.until_ready(60)
            return await act(service)
        finally:
            await service.stop()

    return asyncio.run(run())


def ask(service, count=1, seed=0):
    queue = service.queues[0]
    deadline = asyncio.get_running_loop().time() + 60
    return asyncio.create_task(queue.answer(Request(None, pixels=some_images(count, seed)), deadline))


def pid(service):
    return service.queues[0].process.child.pid


def test_what_was_accepted_is_answered_after_the_process_was_killed(artefact):
    async def act(service):
        first = pid(service)
        os.kill(first, signal.SIGSTOP)  # so that the requests are surely in this process
        answers = [ask(service, seed=seed) for seed in range(20)]
        await asyncio.sleep(0.2)
        os.kill(first, signal.SIGKILL)
        found = await asyncio.gather(*answers)
        assert pid(service) != first
        again = await asyncio.gather(*(ask(service, seed=seed) for seed in range(20)))
        return found, again, service.metrics.restarts.labels(*service.queues[0].names)._value.get()

    found, again, restarts = in_service(artefact, act)
    assert all(abs(one - other).max() <= 1e-5 for one, other in zip(found, again, strict=True))
    assert restarts == 1


def test_the_service_is_unready_from_then_until_another_runs(artefact):
    async def act(service):
        os.kill(pid(service), signal.SIGKILL)
        service.queues[0].process.child.wait()
        states = [service.ready]
        assert service.unready()
        await service.until_ready(60)
        return [*states, service.ready]

    assert in_service(artefact, act) == [False, True]


def test_a_request_that_ends_each_process_is_refused_and_the_others_are_answered(artefact, monkeypatch):
    compute = Process.compute

    async def deadly(self, items, parts):
        if any(bytes(part) == b"poison" for part in parts):
            os.kill(self.child.pid, signal.SIGKILL)
        return await compute(self, items, parts)

    monkeypatch.setattr(processes.Process, "compute", deadly)

    async def act(service):
        deadline = asyncio.get_running_loop().time() + 60
        poison = Request(None, encoded=[b"poison"])
        bad = asyncio.create_task(service.queues[0].answer(poison, deadline))
        good = [ask(service, seed=seed) for seed in range(3)]
        found = await asyncio.gather(*good)
        with pytest.raises(Refused, match="ended the process") as refused:
            await bad
        return found, refused.value.status

    found, status = in_service(artefact, act)
    assert len(found) == 3
    assert status == 400


def test_a_process_that_does_not_answer_is_ended_and_replaced(artefact):
    async def act(service):
        queue, first = service.queues[0], pid(service)
        os.kill(first, signal.SIGSTOP)
        deadline = asyncio.get_running_loop().time() + 0.2
        with pytest.raises(Refused, match="not answered within") as refused:
            await queue.answer(Request(None, pixels=some_images(1)), deadline)
        while queue.process is None or pid(service) == first:
            await asyncio.sleep(0.05)
        return refused.value.status, await ask(service)

    status, logits = in_service(artefact, act, timeout=0.2)
    assert status == 504
    assert logits.shape == (1, 3)


def test_an_artefact_that_was_changed_while_it_was_served_is_not_started_again(tmp_path):
    folder = small_artefact(tmp_path / "small")

    async def act(service):
        before = await ask(service)
        (folder / "model.onnx").write_bytes(b"changed")
        assert (await ask(service) == before).all()  # the loaded model is still that of the version
        os.kill(pid(service), signal.SIGKILL)
        queue = service.queues[0]
        while not queue.broken:
            await asyncio.sleep(0.05)
        return service.ready, queue.broken

    ready, why = in_service(folder, act)
    assert not ready
    assert "is not the file that manifest.json describes" in why


def test_a_machine_that_no_longer_gives_the_reference_is_told_of(tmp_path):
    folder = small_artefact(tmp_path / "small")

    async def act(service):
        assert gauge(service) < 1e-5
        reference = numpy.load(folder / "reference.npz")
        numpy.savez(folder / "reference.npz", **{**reference, "logits": reference["logits"] + 3})
        os.kill(pid(service), signal.SIGKILL)
        while not service.queues[0].broken:
            await asyncio.sleep(0.05)
        return service.unready(), gauge(service)

    def gauge(service):
        return service.metrics.reference.labels(*service.queues[0].names)._value.get()

    reasons, difference = in_service(folder, act)
    assert reasons == ["small: cannot be started"]
    assert difference == pytest.approx(3, rel=1e-3)


def test_an_artefact_that_was_replaced_by_another_does_not_answer_in_its_name(artefact8, tmp_path):
    folder = small_artefact(tmp_path / "small")

    async def act(service):
        shutil.rmtree(folder)
        shutil.copytree(artefact8, folder)
        os.kill(pid(service), signal.SIGKILL)
        queue = service.queues[0]
        while not queue.broken:
            await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="is not available at present") as refused:
            await ask(service)
        return service.ready, queue.broken, refused.value.status

    ready, why, status = in_service(folder, act)
    assert (ready, status) == (False, 503)
    assert "was replaced: restart the service" in why


def test_a_start_that_fails_for_want_of_descriptors_is_tried_again(artefact, monkeypatch):
    async def act(service):
        start, failures = processes.Process.start, []

        async def scarce(*arguments):
            if len(failures) < 2:
                failures.append(1)
                raise OSError(24, "Too many open files")
            return await start(*arguments)

        monkeypatch.setattr(processes.Process, "start", scarce)
        os.kill(pid(service), signal.SIGKILL)
        service.queues[0].process.child.wait()
        await service.until_ready(60)
        return len(failures), (await ask(service)).shape

    assert in_service(artefact, act) == (2, (1, 3))


def test_a_file_that_does_not_run_here_is_refused_at_the_start(tmp_path):
    import numpy

    folder = small_artefact(tmp_path / "small")
    stored = dict(numpy.load(folder / "reference.npz"))
    numpy.savez(folder / "reference.npz", **(stored | {"logits": stored["logits"] + 9}))
    with pytest.raises(InputError, match="does not run on this machine as where it was exported"):
        in_service(folder, None)


def test_the_process_goes_with_the_service(artefact):
    async def act(service):
        return pid(service)

    number = in_service(artefact, act)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_neither_process_loads_torch(artefact):
    async def act(service):
        await ask(service)
        with open(f"/proc/{pid(service)}/maps", encoding="utf-8") as maps:
            return maps.read()

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs /proc")
    maps = in_service(artefact, act)
    assert "onnxruntime" in maps
    assert "libtorch" not in maps
