"""Set the line numbers of the links to code in README.md and docs/: `python -m tools.links`. A test says when they are stale.

Such a link names what the line defines, as in [`ddim`](../src/ddpm/sampling/samplers.py#L98).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import write_text
from stages import ROOT

LINK = re.compile(r"\[`(\w+)`\]\(([^()\s#]+\.py)#L\d+\)")


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def line_of(file: Path, name: str) -> int:
    """The number of the one line of `file` that defines the function, class or constant `name`. Raises Fault."""
    defines = re.compile(rf"\s*(?:def|class) {name}\b|{name}(?:: [^=]+)? = ")
    lines = [number for number, line in enumerate(file.read_text().splitlines(), 1) if defines.match(line)]
    if len(lines) != 1:
        raise Fault(f"{file}: {len(lines)} lines define {name}; accepted: a name that one line defines")
    return lines[0]


def relinked(page: Path) -> str:
    """The text of `page`, each of its links to code at the line that defines what it names. Raises Fault."""

    def link(found: re.Match[str]) -> str:
        name, file = found.groups()
        if not (page.parent / file).is_file():
            raise Fault(f"{page}: {file}: no such file")
        return f"[`{name}`]({file}#L{line_of(page.parent / file, name)})"

    return LINK.sub(link, page.read_text())


if __name__ == "__main__":
    argparse.ArgumentParser("python -m tools.links", description=__doc__).parse_args()
    with faults_reported():
        for page, text in [(written, relinked(written)) for written in pages()]:  # nothing is written where one fails
            write_text(page, text)
