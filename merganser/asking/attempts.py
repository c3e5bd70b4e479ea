"""What an attempt to ask may end with, besides an answer. Any other exception is a failure that may pass."""

from __future__ import annotations

from merganser.asking import Failure


class AwayError(Exception):
    """The service cannot answer anybody now, whatever is asked. ``retry_after``: seconds for which it wants to be left alone."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoUseError(Exception):
    """To ask the same again is of no use. ``reached``: whether somebody was asked at all."""

    def __init__(self, failure: Failure, *, reached: bool = True) -> None:
        super().__init__(failure.detail)
        self.failure, self.reached = failure, reached
