"""Proves an adapter: what it says about a model is held against what the model does."""

from __future__ import annotations

from microscope_bench.check.check_examples import default_examples
from microscope_bench.check.check_report import Check, CheckReport
from microscope_bench.check.contract import check

__all__ = ["Check", "CheckReport", "check", "default_examples"]
