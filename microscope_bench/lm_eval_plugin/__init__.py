"""The lm-eval model backend ``microscope`` and its launcher ``microscope-lm-eval``."""
