"""Every exception merganser raises. Each message says what was expected, what was found, where, and what to do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_PACKAGE = str(Path(__file__).parent)


class MerganserError(Exception):
    """Base of all errors meant for people: the command line prints its message without a traceback.

    ``where`` is the place in the user's files that it is about (``flows/revenue.py:12``), if there is one.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class FlowError(MerganserError):
    """A flow that cannot run as written: unknown column, wrong type, duration, aggregate or order of verbs."""

    exit_code = 2


class UsageError(MerganserError):
    """A command or call used in a way that cannot work (no such file, no such view)."""

    exit_code = 2


class QueryError(UsageError):
    """A query that cannot be answered: a mistake in its SQL, something it must not do, or too much for its limits."""


class WaitTimeoutError(MerganserError, TimeoutError):
    """What was waited for did not come in time."""


class SourceError(MerganserError):
    """A source cannot be read on: a file got shorter, was replaced, or cannot be opened."""


class RecordError(MerganserError):
    """A record could not be decoded or applied and its source was declared with ``on_error="stop"``."""


class FetchError(MerganserError):
    """A service that a flow asks does not answer, and the run cannot wait any longer."""


class StoreError(MerganserError):
    """The store cannot be opened or written: held by another process, written by a newer version, disk full."""


class StoreInUseError(StoreError):
    """Another process (or another store object of this one) has the file open."""


class PlanChangedError(StoreError):
    """A view in the store was made by another plan than the flow now has; the message shows the difference."""

    exit_code = 2


def users_line() -> str:
    """``file:line`` of the nearest caller outside merganser, relative to the working directory where it can be."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return place(frame.f_code.co_filename, frame.f_lineno)


def place(file: str, line: int | None) -> str:
    """``file:line``, relative to the working directory where it can be."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def on_users_line(verb: Callable[P, R]) -> Callable[P, R]:
    """Give every FlowError of a function the line of the flow that called it."""

    @functools.wraps(verb)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except FlowError as error:
            error.where = error.where or users_line()
            raise error.with_traceback(None) from None
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            # Not from within: an argument that is missing, unknown or given twice.
            raise FlowError(str(error).rpartition(".")[2], where=users_line()) from None

    return called
