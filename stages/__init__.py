"""One short script a stage, run as `python -m stages.NAME RECIPE --scale SCALE`: read settings, call src, write outputs.

This checkout's own `src/` comes first on the path: a queued or temporary experiment runs in a copy of the project
and must not import the library of the checkout that is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
