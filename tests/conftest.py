"""What several folders of tests share, because it takes minutes to make."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Do the main job once, and return the bundle and the command's document; the bundle is to be read and never changed.

    It calibrates on fewer images than by default, since rounding weights on them takes minutes.
    """
    out = tmp_path_factory.mktemp("main") / "efficientnet_lite0-int8"
    arguments = ("export", "efficientnet_lite0", "--int8", "--target", "cpu", "--calib-images", "32", "-o", str(out))
    command = [sys.executable, "-m", "edgecnn", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)
