"""One progress bar for all long work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm[Any]:
    """A tqdm bar on stderr that redraws often on a terminal, and adds a line only twice a minute to a log."""
    return tqdm(mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True, **options)
