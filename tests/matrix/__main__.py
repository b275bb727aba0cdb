"""``python -m tests.matrix [MODEL_TYPE ...]``: the outcome of rows, of all of them where none is named."""

import importlib
import pkgutil
import sys

from tests.matrix.torchvision_ops import declare_operators

declare_operators()

import transformers

from tests.matrix import rows
from tests.matrix.verify import main

transformers.logging.set_verbosity_error()
TABLE = {}
for module in pkgutil.iter_modules(rows.__path__):
    for row in importlib.import_module(f"tests.matrix.rows.{module.name}").ROWS:
        TABLE[row.model_type] = row
sys.exit(main(sys.argv[1:] or list(TABLE), TABLE))
