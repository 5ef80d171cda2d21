"""No assertion on wall time: a busy machine is not a failure."""

from hypothesis import settings

settings.register_profile("yrpd", deadline=None)
settings.load_profile("yrpd")
