"""A shop whose flow and whose service are killed: money is neither made nor lost, each saga ends, no command comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.run_shop import one_round

pytestmark = pytest.mark.crash


def test_the_shop_is_killed(tmp_path: Path) -> None:
    assert one_round(0, tmp_path, kills=3, orders=15) > 35
