"""Lets the benchmarks import ``peers`` and ``record``: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
