"""Where chunks run, and the workspace that keeps what they made."""
