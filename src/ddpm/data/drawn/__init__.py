"""Stand-ins for the data sets, and sprites, drawn by code: they need no download and no licence."""
