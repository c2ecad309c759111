"""What holds for all tests of this workspace."""

from hypothesis import HealthCheck, settings

# An example that takes long says how crowded the machine is, not that the code is wrong; a test that hangs has a limit anyway.
# Whatever else Hypothesis has chosen for where it runs (with CI set: the same examples each time) stays as it is.
settings.register_profile("workspace", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("workspace")
