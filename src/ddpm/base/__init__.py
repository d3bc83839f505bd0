"""What every room may use: faults, strict settings, whole files, locks, hashes, seeds, the progress bar."""
