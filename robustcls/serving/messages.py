"""Messages between a service and its worker process: JSON and raw bytes, each preceded by its length. No pickle."""

import json
import struct
from typing import Any

SIZES = struct.Struct("<QQ")


def pack(head: dict[str, Any], *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """Return the pieces of a message, to be written one after another."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return [SIZES.pack(len(text), sum(map(len, parts))), text, *parts]


def unpack(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
