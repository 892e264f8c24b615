"""Lets the tests of this folder import their helpers and the goldens' recipe: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "golden")]
