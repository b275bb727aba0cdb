"""Proves an adapter: what it says about a model is held against what the model does."""

from __future__ import annotations

from microscope_bench.check.check_report import Check, Report
from microscope_bench.check.contract import check
from microscope_bench.check.probes import default_examples

__all__ = ["Check", "Report", "check", "default_examples"]
