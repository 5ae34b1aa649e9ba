"""The stages of a render, each a function of one chunk."""
