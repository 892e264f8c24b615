"""Lets the tests of this folder import the sweep's helpers and the goldens' recipe: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in ("golden", "sweep", "engine", "cli", "gpu"):
    sys.path.insert(0, str(HERE.parent / folder))
