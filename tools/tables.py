"""Tables for a terminal."""

from __future__ import annotations


def aligned(table: list[list[str]]) -> list[str]:
    """The lines of a table: the first and the last column flush left, the numbers between them flush right."""
    columns = [(max(map(len, column)), 0 < i < len(table[0]) - 1) for i, column in enumerate(zip(*table, strict=True))]
    padded = [
        [cell.rjust(width) if right else cell.ljust(width) for cell, (width, right) in zip(row, columns, strict=True)]
        for row in table
    ]
    return ["  ".join(row).rstrip() for row in padded]
