"""What a model is worth: measures of its images against real ones, of its likelihood, and of what it copied."""

from ddpm.evaluation.distances import density_coverage, frechet_distance, kid
from ddpm.evaluation.yardstick import features

__all__ = ["density_coverage", "features", "frechet_distance", "kid"]
