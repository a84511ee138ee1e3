"""A request that is not answered as asked."""

import json
import math


class Refused(Exception):
    """The message is one line for the client: what, and what is allowed.

    Args:
        reason: one of metrics.REASONS.
        message: the line.
        status: of HTTP.
        retry_after: seconds until it may work, where it may.
    """

    def __init__(self, reason: str, message: str, status: int = 400, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.status = status
        self.retry_after = retry_after

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of the response."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status in (408, 413, 431):
            headers["connection"] = "close"  # the rest of the request is not read
        return json.dumps({"error": self.message}).encode(), headers
