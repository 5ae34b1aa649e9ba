"""What a mosaic is written as: files, pages and tile maps."""
