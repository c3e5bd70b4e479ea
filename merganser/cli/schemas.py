"""``schema``: what a schema declares, and whether versions of it go together."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from merganser.display import console
from merganser.errors import FlowError, UsageError
from merganser.registry import Registry, registry
from merganser.schema import Schema, compatibility, notations
from merganser.schema.notations import Notated
from merganser.schema.writing import write

TITLES = {"avro": "Avro", "protobuf": "Protocol Buffers", "json": "JSON Schema"}


registry_option = click.option(
    "--registry", "where", metavar="URL|FOLDER", help="Where SUBJECT@2 and SUBJECT@latest are looked up (cached)."
)
user_option = click.option("--user", metavar="NAME:PASSWORD", envvar="MERGANSER_REGISTRY_USER", help="Of the registry.")
token_option = click.option("--token", envvar="MERGANSER_REGISTRY_TOKEN", help="A bearer token, instead of a user.")
ca_option = click.option("--ca", metavar="FILE", help="Certificates to trust besides the system's.")


@click.group()
def schema() -> None:
    """Schemas: show them in three notations, compare their versions, list and register them."""


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options for a registry; the command gets it as ``reg``, None without."""

    @functools.wraps(command)
    def asked(where: str | None, user: str | None, token: str | None, ca: str | None, **more: Any) -> Any:
        reg = None
        try:
            if where is not None and where.startswith("http"):
                name, _, password = (user or "").partition(":")
                reg = registry(where, user=name or None, password=password or None, token=token, ca=ca)
            elif where is not None:
                reg = registry(where)
        except FlowError as error:
            raise UsageError(error.message) from None  # of no line of a flow
        return command(reg=reg, **more)

    for option in (registry_option, user_option, token_option, ca_option):
        asked = option(asked)
    return asked


@schema.command()
@click.argument("file", metavar="FILE")
@click.option("--as", "notation", type=click.Choice(list(TITLES)), help="Print the whole schema in this notation.")
@click.option("--name", default="Event", show_default=True, help="The name of the record in that notation.")
@asking
def show(file: str, notation: str | None, name: str, reg: Registry | None) -> None:
    """Show the columns that FILE declares, in DuckDB's, Arrow's and each notation's types, and what a notation cannot say.

    FILE is order.avsc, order.proto#Order, order.schema.json, or SUBJECT@VERSION with --registry.
    """
    found = _read([file], reg)[0].declared(file)
    if notation is not None:
        written = write(found, notation, name)
        click.echo(written.text)
        for column, note in written.notes:
            click.echo(f"{column}: {note}", err=True)
        return
    _side_by_side(found)


def _side_by_side(found: Schema) -> None:
    arrow = found.arrow_schema()
    made = {notation: write(found, notation) for notation in TITLES}
    out = console(sys.stdout)
    for c in found.columns:
        out.print(Text(c.name, style="bold"))
        lines = {"DuckDB": f"{c.type}{' NOT NULL' if c.required else ''}", "Arrow": str(arrow.field(c.name).type)}
        lines |= {TITLES[notation]: made[notation].columns[c.name] for notation in TITLES}
        for title, text in lines.items():
            out.print(Text.assemble((f"  {title:<17}", "dim"), text), soft_wrap=True)
        for note in dict.fromkeys(note for n in TITLES for column, note in made[n].notes if column == c.name):
            out.print(Text(f"  note: {note}", style="yellow"))


@schema.command()
@click.argument("new", metavar="NEW")
@click.argument("olds", metavar="OLD...", nargs=-1, required=True)
@click.option(
    "--mode", default="backward", show_default=True, type=click.Choice([m.lower() for m in compatibility.MODES]),
    help="backward: NEW reads what OLD wrote; forward: the other way; transitive: every OLD, not only the last.",
)  # fmt: skip
@asking
def check(new: str, olds: tuple[str, ...], mode: str, reg: Registry | None) -> None:
    """Whether schema NEW goes together with OLD versions (the oldest first). Exits 1 if it does not, with the reasons."""
    read = _read([new, *olds], reg)
    breaks = compatibility.check(read[0].notation, read[0].written, [r.written for r in read[1:]], mode)
    for found in breaks:
        old = olds[found.old]
        click.echo(f"{new if found.reader == 'new' else old} cannot read what {old if found.reader == 'new' else new} wrote:")
        for difference in found.differences:
            click.echo(f"  {difference}")
    if breaks:
        sys.exit(1)
    click.echo(f"{new} is compatible ({mode.replace('_', ' ')})")


@schema.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@asking
def diff(old: str, new: str, reg: Registry | None) -> None:
    """What changes from OLD to NEW: columns, and who can read what."""
    before, after = (_read([file], reg)[0].declared(file) for file in (old, new))
    was, now = ({c.name: f"{c.type}{' NOT NULL' if c.required else ''}" for c in s.columns} for s in (before, after))
    for name in [*was, *(n for n in now if n not in was)]:
        if name not in now:
            click.echo(f"- {name} {was[name]}")
        elif name not in was:
            click.echo(f"+ {name} {now[name]}")
        elif was[name] != now[name]:
            click.echo(f"~ {name} {was[name]} -> {now[name]}")
    if was == now:
        click.echo("the same columns")
    read = _read([new, old], reg)
    for mode, text in (("backward", "NEW reads what OLD wrote"), ("forward", "OLD reads what NEW writes")):
        breaks = compatibility.check(read[0].notation, read[0].written, [read[1].written], mode)
        click.echo(f"{text}: {'no' if breaks else 'yes'}")
        for found in breaks:
            for difference in found.differences:
                click.echo(f"  {difference}")


@schema.command("list")
@click.argument("subject", required=False)
@asking
def list_(subject: str | None, reg: Registry | None) -> None:
    """The subjects of a registry with their versions, or those of SUBJECT."""
    asked = _needed(reg)
    for name in [subject] if subject else asked.subjects():
        click.echo(f"{name}: {', '.join(map(str, asked.versions(name)))}")


@schema.command()
@click.argument("subject")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--mode", default="backward", show_default=True, type=click.Choice([m.lower() for m in compatibility.MODES]),
    help="What the new version must be to those before it, as in `check`.",
)  # fmt: skip
@asking
def register(subject: str, file: Path, mode: str, reg: Registry | None) -> None:
    """Add FILE to a registry as the next version of SUBJECT, if it goes together with those before."""
    asked = _needed(reg)
    new = notations.read(file)
    olds = [asked.version(subject, n) for n in asked.versions(subject)] if subject in asked.subjects() else []
    breaks = compatibility.check(new.notation, new.written, [o.written for o in olds if o.notation == new.notation], mode)
    for found in breaks:
        click.echo(f"{'it' if found.reader == 'new' else 'the version before'} cannot read what the other wrote:")
        for difference in found.differences:
            click.echo(f"  {difference}")
    if breaks:
        sys.exit(1)
    number = asked.register(subject, file)
    click.echo(f"{subject}: {'version' if asked.folder is not None else 'id'} {number}")


def _needed(reg: Registry | None) -> Registry:
    if reg is None:
        raise UsageError("say which registry: --registry http://localhost:8081, or --registry schemas/")
    return reg


def _one(spec: str, reg: Registry | None) -> Notated:
    subject, at, version = spec.rpartition("@")
    if reg is None or not at:
        return notations.read(spec)
    if version == "latest":
        return reg.version(subject, reg.versions(subject)[-1])
    if not version.isdigit():
        raise UsageError(f"{spec}: a version is a number, or latest")
    return reg.version(subject, int(version))


def _read(files: list[str], reg: Registry | None) -> list[Notated]:
    read = [_one(file, reg) for file in files]
    kinds = {r.notation for r in read}
    if len(kinds) > 1:
        names = " and ".join(TITLES[k] for k in sorted(kinds))
        raise UsageError(f"schemas of one notation can be compared, these are {names}")
    return read
