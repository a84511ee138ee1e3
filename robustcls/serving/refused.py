"""The exception for requests that the service refuses."""

import json
import math


class Refused(Exception):
    """A refused request.

    Args:
        reason: one of metrics.REASONS.
        message: one line for the client: what is wrong, and what is allowed.
        status: HTTP status code.
        retry_after: seconds after which the client may try again; None if a retry cannot succeed.
    """

    def __init__(self, reason: str, message: str, status: int = 400, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.status = status
        self.retry_after = retry_after

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of the response."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status in (408, 413, 431):
            headers["connection"] = "close"  # the rest of the request is not read
        return json.dumps({"error": self.message}).encode(), headers
