"""The sounds of a row, as a task's functions and columns give them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from microscope_bench.example import Audio
from microscope_bench.rgb_pictures import media_in, stored_content


def sounds_in(found: Any, directories: Sequence[Path] = ()) -> tuple[Audio, ...]:
    """The recordings among what ``doc_to_audio`` gives, each mixed down to one channel.

    That is one or a list of: ``{"array": ..., "sampling_rate": ...}``, the undecoded column of a data set
    (``{"bytes": ..., "path": ...}``, WAV files only; for ``directories`` see
    :func:`microscope_bench.rgb_pictures.stored_content`), a decoder of torchcodec, an :class:`Audio`, or None.
    """
    sounds = tuple(_sound(sound, directories) for sound in media_in(found))
    for sound in sounds:
        if not sound.samples.size or not np.isfinite(sound.samples).all():
            raise ValueError("a recording is empty or holds NaN or infinity")
    return sounds


def _sound(found: Any, directories: Sequence[Path]) -> Audio:
    if isinstance(found, Audio):
        return found
    if isinstance(found, Mapping) and found.get("array") is not None:
        return _mono(np.asarray(found["array"]), int(found["sampling_rate"]))
    if isinstance(found, Mapping) and (found.get("bytes") or found.get("path")):
        return _wav(stored_content(found, directories))
    if hasattr(found, "get_all_samples"):
        samples = found.get_all_samples()
        return _mono(np.asarray(samples.data).T, int(samples.sample_rate))
    raise TypeError(f"doc_to_audio gives {type(found).__name__} where a recording is due")


def _wav(content: bytes) -> Audio:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            # of a file that ends too early it only warns; of chunks that are not sound it may
            warnings.filterwarnings("error", message=".*EOF.*")
            rate, samples = wavfile.read(io.BytesIO(content))
    except (ValueError, wavfile.WavFileWarning) as error:
        raise ValueError(f"a recording does not open as WAV ({error}); decode it in doc_to_audio") from error
    return _mono(samples, int(rate))


def _mono(samples: np.ndarray, sampling_rate: int) -> Audio:
    """Takes (n,) or (n, channels), as numbers in [-1, 1] or as whole numbers of 8 (unsigned), 16 or 32 bits."""
    if samples.ndim > 2 or (samples.ndim == 2 and samples.shape[1] > samples.shape[0]):
        raise ValueError(f"a recording has shape {samples.shape}; give (samples,) or (samples, channels)")
    if np.issubdtype(samples.dtype, np.integer):
        if samples.dtype not in _SILENCE:
            raise ValueError(
                f"a recording is of {samples.dtype}, whose range is unknown; give int16, or floats in [-1, 1]"
            )
        silence = _SILENCE[samples.dtype]
        samples = (samples.astype(np.float64) - silence) / (128 if silence else np.iinfo(samples.dtype).max + 1.0)
    mixed = samples.mean(axis=1) if samples.ndim == 2 else samples
    if mixed.size and np.abs(mixed).max() > 1.001:
        raise ValueError(f"a recording reaches {np.abs(mixed).max():.4g}; its samples must lie in [-1, 1]")
    return Audio(np.asarray(mixed, dtype=np.float32), sampling_rate)


_SILENCE = {np.dtype(np.uint8): 128, np.dtype(np.int16): 0, np.dtype(np.int32): 0}
