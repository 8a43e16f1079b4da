"""What an image is, on any engine: references, and all that follows descriptors."""
