"""Denoising diffusion models from scratch: schedule, network, training, samplers."""
