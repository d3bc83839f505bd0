"""Commands for people, no stages of the pipeline: python -m tools.sample, python -m tools.results."""

import stages  # noqa: F401  (puts this checkout's src/ first on the path)
