"""Files of every kind: which ones count, how they appear when they are complete, and where the cache is."""
