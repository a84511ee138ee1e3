"""Starts the process that computes, talks to it, and notices its end."""

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
    """What came of a batch: of each item its logits, or why there are none; and the seconds of both parts."""

    items: list[NDArray[numpy.float32] | str]
    decode: float
    inference: float


class Process:
    """One process of one artefact, after it said that it is ready."""

    def __init__(self, child: subprocess.Popen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.child, self._reader, self._writer = child, reader, writer
        self.difference = 0.0  # of the reference's logits on this machine

    @classmethod
    async def start(cls, folder: Path, digest: str, threads: int, batch: int, max_pixels: int) -> "Process":
        """Raises InputError where the artefact does not run here (OtherLogits: its reference is not reproduced) or is another
        one than `digest`, the SHA-256 of its manifest, says; Died where the process ended without a word."""
        ours, theirs = socket.socketpair()
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "robustcls.serving.worker", str(theirs.fileno()), str(folder),
                 str(threads), str(batch), str(max_pixels)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        process = cls(child, reader, writer)
        try:
            said, _ = await process._receive()
        except BaseException:
            await process.stop()
            raise
        if "error" in said:
            await process.stop()
            raise OtherLogits(said["error"], said["difference"]) if "difference" in said else InputError(said["error"])
        if said["manifest"] != digest:  # its answers would go out under the name and the evaluation of the other
            await process.stop()
            raise InputError(f"the artefact in {folder} was replaced: restart the service")
        process.difference = said["difference"]
        return process

    async def compute(self, items: list[dict[str, Any]], parts: list[bytes | memoryview]) -> Outcome:
        """Raises Died."""
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
        """Returns when the process has ended."""
        while self.child.poll() is None:
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Ends it: the closed socket tells it to go; what does not go is killed."""
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
