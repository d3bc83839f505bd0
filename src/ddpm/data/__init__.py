"""From a publisher's files, or pictures drawn by code, to one packed array of images."""
