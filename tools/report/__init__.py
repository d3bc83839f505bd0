"""One page about the recipes of a scale, for people: `python -m tools.report`."""
