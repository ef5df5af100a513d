"""Settings all tests share."""

from hypothesis import HealthCheck, settings

# A busy machine is no bug: time limits per example would fail tests at random.
settings.register_profile("freshet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("freshet")
