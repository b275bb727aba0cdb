"""How much the metrics hold at once on the device they compute on; none of it changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass

from microscope_bench.errors import MetricError

FLOAT64 = 8

MATRICES = 34  # (d, d), that a fit, the sums it is of and the fold it is evaluated on come to at most
ARRAYS_OF_ROWS = 12  # as large as a chunk, that turning it into moments takes at most
ARRAYS_OF_SAMPLE = 5  # as large as a sample, that the search for copies and neighbours takes at most
BLOCKS = 8  # temporaries of ``block_elements`` numbers that these searches hold

LEAST_ROWS = 256
MOST_ROWS = 8192
MOST_ELEMENTS = 2**24
LEAST_ELEMENTS = 2**18


@dataclass(frozen=True)
class Workspace:
    """Bounds on what one cloud's metrics hold at once.

    Attributes:
        block_elements: numbers in a temporary matrix of the searches for neighbours and copies.
        folds_at_once: folds whose moments are accumulated together; the rows are read once more for the next ones. None
            is all.
        parked: whether the matrices of the folds wait in the host's memory until they are summed.
    """

    rows_per_chunk: int = MOST_ROWS
    block_elements: int = MOST_ELEMENTS
    folds_at_once: int | None = None
    parked: bool = False

    @classmethod
    def within(cls, size: int, dim: int, n_folds: int, n_clouds: int, sample_rows: int) -> Workspace:
        """The roomiest within ``size`` bytes, where the moments of ``n_clouds`` wait at the same time."""
        matrix, row = FLOAT64 * dim**2, FLOAT64 * dim
        sample = ARRAYS_OF_SAMPLE * sample_rows * row
        least = max(
            MATRICES * matrix,
            2 * matrix + ARRAYS_OF_ROWS * LEAST_ROWS * row,
            sample + BLOCKS * FLOAT64 * max(LEAST_ELEMENTS, sample_rows, dim),
        )
        if size < least:
            raise MetricError(
                f"measure_memory: {size:,} bytes are too little for states of width {dim}; the least is "
                f"{readable(least)}. Give at least that"
            )
        waiting = n_clouds * n_folds * 2 * matrix
        parked = waiting + least > size
        free = size if parked else size - waiting
        rows = min(MOST_ROWS, (free - 2 * matrix) // (ARRAYS_OF_ROWS * row))
        at_once = (free - ARRAYS_OF_ROWS * rows * row) // (2 * matrix) if parked else n_folds
        if at_once < n_folds:  # as many rows as leave room for half of the folds, rather than all rows and one fold
            rows = min(MOST_ROWS, max(LEAST_ROWS, free // 2 // (ARRAYS_OF_ROWS * row)))
            at_once = max(1, (free - ARRAYS_OF_ROWS * rows * row) // (2 * matrix))
        return cls(
            rows_per_chunk=int(rows),
            block_elements=int(min(MOST_ELEMENTS, (free - sample) // (BLOCKS * FLOAT64))),
            folds_at_once=None if at_once >= n_folds else int(at_once),
            parked=parked,
        )


def readable(size: int) -> str:
    """A number of bytes in the units that ``--measure_memory`` takes, rounded up.

    >>> readable(2_684_354_560), readable(1)
    ('2.7GB', '1MB')
    """
    if size >= 1e9:
        return f"{-(-size // 10**8) / 10:g}GB"
    return f"{-(-size // 10**6)}MB"
