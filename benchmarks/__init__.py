"""Speed, paired with that of other libraries: `python -m benchmarks.training`, `python -m benchmarks.sampling`."""

import stages  # noqa: F401  (puts this checkout's src/ first on the path)
