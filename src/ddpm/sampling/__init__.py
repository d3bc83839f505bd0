"""From weights to images: samplers for any denoiser, and models loaded from a file that draw with them."""

from ddpm.sampling.drawing import Model, load

__all__ = ["Model", "load"]
