"""Commands for people, no stages of the pipeline: python -m tools.sample, python -m tools.results."""

import argparse

import stages  # noqa: F401  (puts this checkout's src/ first on the path)


def positive(text: str) -> int:
    """The value of an option that takes 1 or more. Raises what argparse turns into a message."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: accepted: 1 or more")
    return value
