"""What a checkpoint is: settings, noise schedule, diffusion process, network, weights in a file."""
