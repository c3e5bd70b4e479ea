"""``make fuzz N=…``: N mutated records of each format. No crash, no hang, bounded memory; each is the reference's or a reject."""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.files import FILES, fuzz_files
from tests.fuzz.formats import BOMBS, FORMATS

BATCH = 500
SECONDS = 60.0
"""A batch that takes longer hangs."""

MEMORY = 512 << 20


def mutate(chance: random.Random, valid: list[bytes]) -> bytes:
    """One valid record, changed in a few places."""
    raw = bytearray(chance.choice(valid))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
        at = chance.randrange(len(raw) + 1)
        kind = chance.randrange(7)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            raw.insert(at, chance.randrange(256))
        elif kind == 2 and raw:
            del raw[at % len(raw)]
        elif kind == 3:
            del raw[at:]
        elif kind == 4:
            raw[at:at] = chance.choice(BOMBS)
        elif kind == 5:
            other = chance.choice(valid)
            raw[at:] = other[chance.randrange(len(other) + 1) :]
        elif raw:
            raw[at % len(raw)] = chance.choice([0, 1, 2, 127, 128, 254, 255])
    return bytes(raw)


def fuzz(name: str, count: int, seed: int) -> tuple[int, int]:
    """Records that were rows, and rejects. Raises AssertionError with the record that is neither right nor refused."""
    form, chance = FORMATS[name](), random.Random(f"{name}/{seed}")
    accepted = refused = 0
    while accepted + refused < count:
        raws = [mutate(chance, list(form.valid)) for _ in range(min(BATCH, count - accepted - refused))]
        if name in ("json", "csv"):
            raws = [raw.replace(b"\n", b" ").replace(b"\r", b" ") for raw in raws]
        if name == "csv":  # a quote that is left open takes the next line along
            raws = [raw + b'"' * (raw.count(b'"') % 2) for raw in raws]
        began = time.monotonic()
        rows = form.decode(raws)
        assert time.monotonic() - began < SECONDS, f"{name}: a batch took {time.monotonic() - began:.0f} s"
        for raw, row in zip(raws, rows):
            if row is None:
                refused += 1
                continue
            accepted += 1
            try:
                right = form.agrees(raw, row)
            except Exception as error:
                raise AssertionError(f"{name}: {raw!r} was taken as {row}; the reference refuses it: {error!r}") from error
            assert right, f"{name}: {raw!r} was taken as {row}, which is not what the reference has"
    return accepted, refused


def main(count: int) -> None:
    seed = random.randrange(1 << 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    for name in FORMATS:
        accepted, refused = fuzz(name, count, seed)
        print(f"{name}: {accepted:,} rows as the reference has them, {refused:,} rejects (seed {seed})", flush=True)
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder:
            whole, refused = fuzz_files(name, max(1, count // 10), seed, Path(folder), mutate)
        print(f"{name}: {whole:,} files as the reference has them, {refused:,} with errors or rejects (seed {seed})", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert grown < MEMORY, f"memory grew by {grown >> 20} MB"


if __name__ == "__main__":
    main(int(sys.argv[1]))
