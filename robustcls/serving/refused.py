"""A request that is not answered as asked."""


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
