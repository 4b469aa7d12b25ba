"""What every test may rely on: no settings leak in from the machine the tests run on."""

from __future__ import annotations

import os

from hypothesis import settings

for _name in [name for name in os.environ if name.upper().startswith("REALFAKE_")]:
    del os.environ[_name]
# Workers of a parallel run share few cores; more threads each only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hypothesis would time each example; a busy machine is not a failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
