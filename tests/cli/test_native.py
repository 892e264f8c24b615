"""``edgecnn native``: where the C++ runtime is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import Cli

HOLDS = {
    "--cmake-dir": "edgecnn-config.cmake",
    "--include-dir": "edgecnn/edgecnn.hpp",
    "--example-dir": "classify.cpp",
}


@pytest.mark.parametrize(("option", "file"), HOLDS.items())
def test_one_folder_for_a_shell(cli: Cli, option: str, file: str) -> None:
    out = cli("native", option).out
    assert out.count("\n") == 1
    assert (Path(out.rstrip("\n")) / file).is_file()


def test_all_folders(cli: Cli) -> None:
    document = json.loads(cli("native", "--json").out)
    table = cli("native").out
    for option, file in HOLDS.items():
        folder = document[option.removeprefix("--").replace("-", "_")]
        assert (Path(folder) / file).is_file()
        assert f"{option} " in table
        assert folder in table
