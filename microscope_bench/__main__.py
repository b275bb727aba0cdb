"""``python -m microscope_bench``: the same as ``microscope-bench``."""

import sys

from microscope_bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
