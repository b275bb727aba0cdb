"""How much the metrics hold at once on the device they compute on; none of it changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass

from microscope_bench.errors import MetricError

FLOAT64 = 8

MATRICES = 24  # (d, d), that a fit, the sums it is of and the fold it is evaluated on come to at most
ARRAYS_OF_ROWS = 12  # as large as a chunk, that turning it into moments takes at most
ARRAYS_OF_SAMPLE = 5  # as large as a sample, that the search for copies and neighbours takes at most
BLOCKS = 8  # temporaries of ``block_elements`` numbers that these searches hold

LEAST_ROWS = 256
MOST_ROWS = 8192
MOST_ELEMENTS = 2**24
LEAST_ELEMENTS = 2**18


@dataclass(frozen=True)
class Sizes:
    """What the metrics are to hold at once.

    Attributes:
        dim: width of the states.
        n_folds: of each cloud.
        n_clouds: whose moments one boundary's metrics look at, together.
        n_together: those among them whose moments the metrics of one cloud look at, its own included.
        sample_rows: rows of the largest sample.
        can_park: whether matrices can wait in another memory than that of the device.
    """

    dim: int
    n_folds: int
    n_clouds: int
    n_together: int
    sample_rows: int
    can_park: bool

    @property
    def matrix(self) -> int:
        """Bytes of a (d, d) matrix."""
        return FLOAT64 * self.dim**2

    def moments(self, n_clouds: int) -> int:
        """Bytes of the moments of some clouds, fold by fold."""
        return n_clouds * self.n_folds * 2 * self.matrix


@dataclass(frozen=True)
class Workspace:
    """Bounds on what one cloud's metrics hold at once.

    Attributes:
        block_elements: numbers in a temporary matrix of the searches for neighbours and copies.
        folds_at_once: folds whose moments are accumulated together; the rows are read once more for the next ones. None
            is all.
        parked: whether the matrices of the folds wait in the host's memory until they are summed.
        kept: whether the moments of a cloud wait until all clouds of its boundary are measured; else they go when it
            is, and whoever asks for them again reads the rows once more.
        tightened: whether memory has run out before.
    """

    rows_per_chunk: int = MOST_ROWS
    block_elements: int = MOST_ELEMENTS
    folds_at_once: int | None = None
    parked: bool = False
    kept: bool = True
    tightened: bool = False

    @classmethod
    def within(cls, size: int, sizes: Sizes) -> Workspace:
        """The roomiest within ``size`` bytes."""
        matrix, row, n_folds = sizes.matrix, FLOAT64 * sizes.dim, sizes.n_folds
        sample = ARRAYS_OF_SAMPLE * sizes.sample_rows * row
        work = max(
            MATRICES * matrix,
            2 * matrix + ARRAYS_OF_ROWS * LEAST_ROWS * row,
            sample + BLOCKS * FLOAT64 * max(LEAST_ELEMENTS, sizes.sample_rows, sizes.dim),
        )
        every, some = sizes.moments(sizes.n_clouds), sizes.moments(sizes.n_together)
        least = work if sizes.can_park else work + some
        if size < least:
            raise MetricError(
                f"measure_memory: {size:,} bytes are too little for states of width {sizes.dim}; the least is "
                f"{readable(least)}. Give at least that"
            )
        kept, parked = every + work <= size, some + work > size
        free = size - (every if kept else 0 if parked else some)
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
            kept=kept,
        )

    def tighter(self, n_folds: int, can_park: bool) -> Workspace:
        """A quarter of the rows at once, and nothing waits on the device; the same where there is no less."""
        return Workspace(
            rows_per_chunk=max(LEAST_ROWS, self.rows_per_chunk // 4),
            block_elements=max(LEAST_ELEMENTS, self.block_elements // 4),
            folds_at_once=max(1, (self.folds_at_once or n_folds) // 2) if can_park else None,
            parked=can_park,
            kept=False,
            tightened=True,
        )


def readable(size: int) -> str:
    """A number of bytes in the units that ``--measure_memory`` takes, rounded up.

    >>> readable(2_684_354_560), readable(1)
    ('2.7GB', '1MB')
    """
    if size >= 1e9:
        return f"{-(-size // 10**8) / 10:g}GB"
    return f"{-(-size // 10**6)}MB"
