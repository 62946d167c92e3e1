"""Hypothesis profiles: few examples by default, `HYPOTHESIS_PROFILE=thorough` for many."""

import os

from hypothesis import HealthCheck, settings

# As everybody has it who installed us; here also without.
from ghosttrain.testing.plugin import ghosttrain_server  # noqa: F401

# Simulating is slower than hypothesis likes; how long an example takes is no test of ours.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", deadline=None, max_examples=15, suppress_health_check=_SLOW)
settings.register_profile("thorough", deadline=None, max_examples=400, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
