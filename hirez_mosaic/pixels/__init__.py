"""Px and cells: geometry, colour and resampling."""
