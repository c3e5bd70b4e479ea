"""What tests share: Hypothesis runs the same examples each time, more of them with HYPOTHESIS_PROFILE=long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

from tests.apicurio import apicurio
from tests.kafka.fixture import kafka
from tests.postgres import postgres

__all__ = ["apicurio", "kafka", "postgres"]

_common = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
# Shrinking runs a flow hundreds of times; with a failure at hand: HYPOTHESIS_PROFILE=long.
settings.register_profile("short", max_examples=25, phases=[Phase.explicit, Phase.generate], **_common)
settings.register_profile("long", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
