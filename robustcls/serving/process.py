"""Start a worker process, communicate with it, and notice its end."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.runtime.session import OtherLogits
from robustcls.serving.messages import SIZES, pack, unpack


class Died(Exception):
    """The process ended before it answered."""


@dataclass
class Outcome:
    """The result of a batch."""

    items: list[NDArray[numpy.float32] | str]  # for each request its logits, or the reason why there are none
    decode: float  # seconds
    inference: float  # seconds


class Process:
    """A worker process for one artefact that has reported to be ready."""

    def __init__(self, child: subprocess.Popen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.child, self._reader, self._writer = child, reader, writer
        self.difference = 0.0  # largest difference of the reference logits on this machine

    @classmethod
    async def start(cls, folder: Path, digest: str, threads: int, batch: int, max_pixels: int) -> "Process":
        """Start a worker process and wait until it is ready.

        Raises:
            InputError: if the artefact does not run on this machine (OtherLogits: its reference logits are not reproduced), or
                the SHA-256 of its manifest is not `digest`.
            Died: if the process ended without a message.
        """
        own_end, worker_end = socket.socketpair()
        with worker_end:
            child = subprocess.Popen(
                [sys.executable, "-m", "robustcls.serving.worker", str(worker_end.fileno()), str(folder),
                 str(threads), str(batch), str(max_pixels)],
                pass_fds=[worker_end.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=own_end)
        process = cls(child, reader, writer)
        try:
            message, _ = await process._receive()
        except BaseException:
            await process.stop()
            raise
        if "error" in message:
            await process.stop()
            text = message["error"]
            raise OtherLogits(text, message["difference"]) if "difference" in message else InputError(text)
        if (
            message["manifest"] != digest
        ):  # its answers would carry the version and the evaluation of the earlier artefact
            await process.stop()
            raise InputError(f"the artefact in {folder} was replaced: restart the service")
        process.difference = message["difference"]
        return process

    async def compute(self, items: list[dict[str, Any]], parts: list[bytes | memoryview]) -> Outcome:
        """Compute a batch of requests. items: their descriptions; parts: their data. Raises Died."""
        try:
            self._writer.writelines(pack({"items": items}, *parts))
            await self._writer.drain()
        except OSError:
            raise Died from None
        head, payload = await self._receive()
        rows = sum(item.get("n", 0) for item in head["items"])
        logits = numpy.frombuffer(payload, "<f4").reshape(rows, -1) if rows else numpy.empty((0, 0), "<f4")
        found: list[NDArray[numpy.float32] | str] = []
        at = 0
        for item in head["items"]:
            if "error" in item:
                found.append(item["error"])
            else:
                found.append(logits[at : at + item["n"]])
                at += item["n"]
        return Outcome(found, head["decode"], head["inference"])

    async def ended(self) -> None:
        """Wait until the process has ended."""
        while self.child.poll() is None:
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End the process by closing its socket; kill it if it has not ended after 2 seconds."""
        self._writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.ended()
        if self.child.poll() is None:
            self.child.kill()
            await self.ended()

    async def _receive(self) -> tuple[dict, bytes]:
        try:
            text, size = SIZES.unpack(await self._reader.readexactly(SIZES.size))
            return unpack(await self._reader.readexactly(text)), await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise Died from None
