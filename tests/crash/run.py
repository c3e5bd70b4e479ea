"""``make crash N=1000``: kill runs and rebuilds at so many random times, and check each store at the end."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.crash.flows import write_events
from tests.crash.harness import Job, attempt, contents, sent_to, until_done


def main() -> None:
    wanted = int(sys.argv[1])
    killed = stores = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder)
        assert attempt(Job(name, str(folder / "calm.duckdb"))) == 0
        calm = contents(str(folder / "calm.duckdb"))
        while killed < wanted:
            chance = random.Random(stores)
            store = folder / f"s{stores}.duckdb"
            job = Job(name, str(store), workers=chance.choice([1, 2, 4]), chunk_bytes=chance.randrange(4000, 80000))
            killed += until_done(job, job, chance, kills=8, longest=1.0)
            if stores % 3 == 0:
                again = replace(job, rebuild=("per_minute", "last_of_key", "per_key"))
                killed += until_done(again, again, chance, kills=3, longest=1.0)
            found = contents(str(store))
            if found != calm:
                wrong = [key for key in calm if found[key] != calm[key]]
                sys.exit(f"store {stores} (seed {stores}) differs in {', '.join(wrong)} after {killed} kills")
            store.unlink()
            shutil.rmtree(sent_to(str(store)))
            stores += 1
            print(f"{killed} kills, {stores} stores equal, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
