"""Diffusion models from scratch: rooms that import one way, each of one concern (README, "The tree")."""

import os

# How OpenMP's threads wait for each other, read when torch loads: asleep. Spinning, as they do by default, they take the
# processor from the thread they wait for as soon as anything else runs (benchmarks/README.md, "A busy machine").
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"
