"""Accept the Q/DQ placement and scales of today: rewrite tests/golden/placement/, whose diff then shows what changed.

Run it in the project's environment::

    python tests/golden/regenerate_placement.py             # every golden
    python tests/golden/regenerate_placement.py residual.int8 zoo.resnet18
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "quantize")]

import placement_text  # noqa: E402 -- it lies beside the tests


def main(cases: list[str]) -> None:
    """Write the goldens of ``cases``, all by default; one whose text agrees with the file stays as it is."""
    every = [*placement_text.CASES, *(f"zoo.{name}" for name in placement_text.ZOO)]
    placement_text.GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases or every:
            path = placement_text.GOLDEN / f"{case}.txt"
            text = placement_text.text_of(case, Path(scratch), Path(scratch))
            if not path.exists() or not placement_text.same(text, path.read_text()):
                path.write_text(text)
                print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
