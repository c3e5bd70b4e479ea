"""The pytest plugin: a fixture that runs flows over rows. Found by pytest where merganser is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from merganser.testing import Views


@pytest.fixture
def run_flow(request: pytest.FixtureRequest) -> Callable[..., Views]:
    """``run_flow("flows/revenue.py", {"orders": [...]})``: ``merganser.testing.run``, which also takes the file of a flow.

    A file's path is relative to pytest's root folder. Nothing of merganser is loaded before it is called.
    """

    def run(flow: Any, scripts: Any, **options: Any) -> Views:
        from merganser.cli.load import load
        from merganser.errors import UsageError
        from merganser.testing import run as run_one

        if isinstance(flow, str):
            flows = load([str(request.config.rootpath / flow)])
            if len(flows) != 1:
                raise UsageError(f"{flow} has {len(flows)} flows; give one of them")
            flow = flows[0]
        return run_one(flow, scripts, **options)

    return run
