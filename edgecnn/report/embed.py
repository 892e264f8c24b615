"""A report's part on how to embed the bundle: code filled in for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path

from edgecnn import native
from edgecnn.report import html
from edgecnn.runtime import Bundle

__all__ = ["cpp_snippet", "embed_section", "python_snippet"]


def embed_section(bundle: Bundle) -> str:
    """Return the part: Python, C++ where this edgecnn has its headers, and the check on the device."""
    name = bundle.path.resolve().name
    steps = bundle.preprocess
    height, width = steps.size
    told = (
        f"Copy the folder {name}. Resizing to {steps.resize}, cropping to {height}x{width}, normalisation, labels and softmax come "
        "from it: an application gives a picture, and gets names with probabilities."
    )
    blocks = [
        ("Python, with numpy and a backend alone", python_snippet(bundle)),
        ("Prove it on the device", f"edgecnn verify {shlex.quote(name)}"),
    ]
    if (Path(native.__file__).parent / "include" / "edgecnn" / "classifier.hpp").is_file():
        blocks.insert(1, ("C++17", cpp_snippet(bundle)))
    return html.section("How to embed it", f"<p class='lead'>{escape(told)}</p>", *_blocks(blocks), ident="embed")


def _blocks(blocks: list[tuple[str, str]]) -> Iterator[str]:
    """Yield titled blocks of code."""
    for title, code in blocks:
        yield f"<h3>{escape(title)}</h3><pre tabindex='0'><code>{escape(code)}</code></pre>"


def python_snippet(bundle: Bundle) -> str:
    """Return code that runs where the bundle's folder lies, and a picture ``photo.jpg``."""
    name = json.dumps(bundle.path.resolve().name, ensure_ascii=False)
    choice = bundle.choose()
    unverified = "" if bundle.manifest.verified else ", allow_unverified=True"
    return (
        "from edgecnn.runtime import Classifier\n\n"
        f"with Classifier({name}{unverified}) as classify:  # {choice}\n"
        '    for guess in classify("photo.jpg", top=3):\n'
        '        print(f"{guess.probability:.3f} {guess.label}")\n'
    )


def cpp_snippet(bundle: Bundle) -> str:
    """Return code for the C++ runtime's classifier; ``pixels`` are RGB, 8 bits, row by row."""
    name = json.dumps(bundle.path.resolve().name, ensure_ascii=False)
    return (
        "#include <edgecnn/edgecnn.hpp>\n\n"
        f"edgecnn::Classifier const classify({name});\n"
        "edgecnn::ImageView const image{pixels.data(), width, height};\n"
        "for (auto const& guess : classify(image, 3)) {\n"
        "    std::cout << guess.probability << ' ' << guess.label << '\\n';\n"
        "}\n"
    )
