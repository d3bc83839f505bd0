"""A page that draws: a model in a browser, without Python."""
