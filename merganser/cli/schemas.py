"""``schema``: what a schema declares, and whether versions of it go together."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from merganser.display import console
from merganser.errors import UsageError
from merganser.schema import Schema, compatibility, notations
from merganser.schema.notations import Notated
from merganser.schema.writing import write

TITLES = {"avro": "Avro", "protobuf": "Protocol Buffers", "json": "JSON Schema"}


@click.group()
def schema() -> None:
    """Schemas: show them in three notations, compare their versions."""


@schema.command()
@click.argument("file", metavar="FILE")
@click.option("--as", "notation", type=click.Choice(list(TITLES)), help="Print the whole schema in this notation.")
@click.option("--name", default="Event", show_default=True, help="The name of the record in that notation.")
def show(file: str, notation: str | None, name: str) -> None:
    """Show the columns that FILE declares, in DuckDB's, Arrow's and each notation's types, and what a notation cannot say.

    FILE is order.avsc, order.proto#Order or order.schema.json.
    """
    found = notations.load(file)
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
def check(new: str, olds: tuple[str, ...], mode: str) -> None:
    """Whether schema NEW goes together with OLD versions (the oldest first). Exits 1 if it does not, with the reasons."""
    read = _read([new, *olds])
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
def diff(old: str, new: str) -> None:
    """What changes from OLD to NEW: columns, and who can read what."""
    before, after = (_read([file])[0].declared(file) for file in (old, new))
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
    read = _read([new, old])
    for mode, text in (("backward", "NEW reads what OLD wrote"), ("forward", "OLD reads what NEW writes")):
        breaks = compatibility.check(read[0].notation, read[0].written, [read[1].written], mode)
        click.echo(f"{text}: {'no' if breaks else 'yes'}")
        for found in breaks:
            for difference in found.differences:
                click.echo(f"  {difference}")


def _read(files: list[str]) -> list[Notated]:
    read = [notations.read(file) for file in files]
    kinds = {r.notation for r in read}
    if len(kinds) > 1:
        names = " and ".join(TITLES[k] for k in sorted(kinds))
        raise UsageError(f"schemas of one notation can be compared, these are {names}")
    return read
