"""The networks: VGG-16, its weights, and the decoders."""
