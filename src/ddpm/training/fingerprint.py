"""What stands for the code that decides the trained weights. A change in it starts a training anew."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

FINGERPRINTED = ("base", "machine", "model", "training")  # the rooms of ddpm that the stage `train` depends on
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_fingerprint(package: Path = Path(__file__).parents[1]) -> str:
    """sha256 (hex) over the modules of FINGERPRINTED below the folder `package`: their names, their syntax without docstrings.

    Comments and layout do not count, a changed formula does.
    """
    files = [path for room in FINGERPRINTED for path in (package / room).rglob("*.py")]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in files):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(f"{name}\n{_plain(tree)}\n".encode())
    return digest.hexdigest()


def _plain(node: Any) -> Any:
    """The syntax below `node` in lists and texts, alike in every Python: ast.dump names newer ones' empty fields."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    return [type(node).__name__, *((name, _plain(value)) for name, value in ast.iter_fields(node) if value not in (None, []))]
