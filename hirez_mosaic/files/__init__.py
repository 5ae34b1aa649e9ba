"""Files of every kind: where they lie, how they appear at once, and what is kept for the next time."""
