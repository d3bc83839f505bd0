"""docs/promises.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    named = 0
    for line in (ROOT / "docs/promises.md").read_text().splitlines():
        for file, names in re.findall(r"`(test_\w+)`(?:: ((?:`(?!test_)\w+`(?:, )?)+))?", line):
            text = (ROOT / "tests" / f"{file}.py").read_text()
            found = re.findall(r"def test_(\w+)", text)
            for name in re.findall(r"`(\w+)`", names):
                assert any(name in test for test in found), f"{file}: {name}"
                named += 1
    assert named > 20
