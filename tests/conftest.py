"""Settings all tests share."""

import os

from hypothesis import HealthCheck, settings

# A busy machine is no bug: time limits per example would fail tests at random. In CI the examples are always the same.
settings.register_profile(
    "freshet",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("freshet")

pytest_plugins = ["tests.brokers.plugin"]
