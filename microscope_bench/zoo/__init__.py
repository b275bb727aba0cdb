"""Small multimodal models that need no download; importing this package imports no torch."""
