"""The command line. Exit codes: 0 done, 1 failed while running, 2 wrong use or invalid flow."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from merganser import __version__
from merganser.cli import dead_letters, export, inspect, new, past, running, schemas, top, watch
from merganser.errors import MerganserError


class _Group(click.Group):
    """Turns merganser's errors into a message and an exit code; anything else is a defect and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        _open_standard_files()
        try:
            return super().invoke(ctx)
        except MerganserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except BrokenPipeError:  # the reader of our output is gone, as `| head` is; what is left of it goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:  # such as a folder that may not be written, or a full disk
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{error.strerror or error}", err=True)
            sys.exit(1)
        except Exception:
            click.echo("error: this is a defect of merganser; please report it with what follows", err=True)
            raise


def _open_standard_files() -> None:
    """Where standard output or error is closed (``>&-``): nothing else may take its number, and what is said goes nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = (there or Path(os.devnull).open("w") for there in (sys.stdout, sys.stderr))  # noqa: SIM115 # for good


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="merganser %(version)s")
def main() -> None:
    """Exact, live DuckDB views of event logs.

    \b
    merganser new shop                                    make a project
    merganser run flows/revenue.py                        bring its views up to date
    merganser query "from revenue_per_minute limit 10"    ask them
    """


for _command in (
    running.run, running.rebuild, running.replay, inspect.plan, inspect.query, inspect.status, dead_letters.dead_letters,
    inspect.verify, past.history, past.as_of, new.new, schemas.schema, export.export, watch.watch, top.top,
):  # fmt: skip
    main.add_command(_command)
