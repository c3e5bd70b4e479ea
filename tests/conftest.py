"""What tests share: Hypothesis runs the same examples each time, more of them with HYPOTHESIS_PROFILE=long."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.apicurio import apicurio
from tests.kafka.fixture import broker, kafka
from tests.postgres import postgres

__all__ = ["apicurio", "broker", "kafka", "postgres"]

_common = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
# Shrinking runs a flow hundreds of times; with a failure at hand: HYPOTHESIS_PROFILE=long.
settings.register_profile("short", max_examples=25, phases=[Phase.explicit, Phase.generate], **_common)
settings.register_profile("long", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


# What is started by a shell in the background ignores Ctrl-C, and so would all that tests start, in which they press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped fails: what it needs is to be there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason} (in CI nothing may be skipped)"
    return report
