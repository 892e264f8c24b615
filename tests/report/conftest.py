"""Lets the tests of this folder import its helper, and what that imports: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("report", "parity", "runtime", "bench_command")]
