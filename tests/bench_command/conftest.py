"""Makes this folder's helpers importable, and the tiny bundle's."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from cli_tools import cli  # noqa: F401 -- a fixture
