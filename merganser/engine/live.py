"""A running flow as it is seen by those who ask its endpoint: figures, and whether it has caught up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from merganser.clock import MIN_TIME
from merganser.engine.committer import Progressed
from merganser.engine.delivery import Delivery
from merganser.engine.lanes import Shared
from merganser.query.reading import memory

FRESH = 10.0
"""A flow has caught up if every lane found nothing more to read within so many seconds."""


class LiveRun:
    """The ``query.status.Live`` of a run. Reads what lanes and committer count; writes nothing of theirs."""

    def __init__(self, progressed: Progressed, shared: Shared, delivery: Delivery | None) -> None:
        self._progressed, self._shared, self._delivery = progressed, shared, delivery
        self._began = time.time()

    def figures(self) -> dict[str, Any]:
        """What the run has done: events since it began, bytes, seconds; ``watermark`` in microseconds of event time or None."""
        p = self._progressed
        return {
            "pid": os.getpid(),
            "began": self._began,
            "seconds": time.time() - self._began,
            "follow": self._shared.follow,
            "ready": self._looked(time.monotonic() - FRESH),
            "read": p.read,
            "read_bytes": p.read_bytes,
            "committed": p.committed,
            "epochs": p.epochs,
            "commit_seconds": p.commit_seconds,
            "commit_seconds_total": p.commit_seconds_total,
            "dead": p.dead,
            "late": p.late,
            "duplicate": p.duplicate,
            "sent": dict(self._delivery.sent) if self._delivery else {},
            "fetches": [{"fetch": name, **asdict(asked)} for name, asked in sorted(p.asked.items())],
            "watermark": p.watermark if p.watermark > MIN_TIME else None,
            "memory": memory(),
        }

    def waiter(self) -> Callable[[], bool]:
        """True once everything that was there to read when this was called has been committed."""
        asked = self._shared.asked = time.monotonic()
        wanted: dict[tuple[str, str], int] | None = None

        def done() -> bool:
            nonlocal wanted
            if wanted is None and self._looked(asked):
                wanted = dict(self._shared.read_to)
            committed = self._progressed.committed_to
            return wanted is not None and all(committed.get(key, 0) >= seq for key, seq in wanted.items())

        return done

    def _looked(self, since: float) -> bool:
        """Whether each lane has, since then, looked for partitions and found nothing more to read in any."""
        moments = list(self._shared.looked.values())  # empty before the lanes are made
        return bool(moments) and min(moments) >= since
