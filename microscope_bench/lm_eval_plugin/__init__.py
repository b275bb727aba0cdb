"""The lm-eval model backend ``microscope`` and its launcher ``microscope-lm-eval``.

lm-eval scores the answers, and the geometry is measured on the same forward passes. ``docs/lm_eval.md`` shows how.
"""
