"""`make bench`: how fast each part is, as ratios to something measured in the same call."""
