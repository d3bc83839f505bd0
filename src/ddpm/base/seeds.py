"""Independent random streams named by numbers: (seed, step), (seed, image), ..."""

from __future__ import annotations

import numpy as np


def derive_seed(*numbers: int) -> int:
    """A 64-bit seed mixed from `numbers`, each 0 to 2**32 - 1; tuples of one length give different seeds.

    torch's CPU generator keeps only the low 32 bits of a seed, so numbers must be mixed, not shifted and added.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
