"""Settings that every test shares: hypothesis draws the same cases on every run and never fails for slowness.

OpenMP's threads give way soon, as under the command line, so that tests beside other programs do not crawl.
"""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # read when torch is loaded

settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")
