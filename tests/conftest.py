"""Settings that every test shares: hypothesis draws the same cases on every run and never fails for slowness."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")
