"""The command line in this process: as a child, but without a second of imports."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

from merganser.cli import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def call(*args: str, **env: str) -> Done:
    """``merganser ARGS``; an exception that would be a traceback is raised."""
    done = CliRunner().invoke(main, args, env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
