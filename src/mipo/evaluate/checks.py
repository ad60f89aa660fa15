"""What the metrics accept: arrays of finite numbers, of equal lengths."""

import numpy as np
from numpy.typing import ArrayLike


def numbers(
    name: str,
    values: ArrayLike,
    *,
    least: int = 1,
    dims: int | None = 1,
    infinite: bool = False,
) -> np.ndarray:
    """Return the values as a float array.

    Parameters
    ----------
    name : str
        What the error calls them.
    values : array_like
        Numbers.
    least : int
        So many values are needed.
    dims : int, optional
        So many dimensions are needed; None: any.
    infinite : bool
        Whether infinite values are allowed.

    Raises
    ------
    ValueError
        Names what is wrong and where.
    """
    array = np.asarray(values, float)
    if dims is not None and array.ndim != dims:
        raise ValueError(
            f"{name} has shape {array.shape}; expected {dims} dimension(s)"
        )
    if array.shape and len(array) < least:
        raise ValueError(f"{name} has {len(array)} value(s); give at least {least}")
    bad = np.isnan(array)
    if not infinite:
        bad = bad | np.isinf(array)
    if bad.any():
        index = ", ".join(str(i) for i in np.argwhere(bad)[0])
        place = f"{name}[{index}]" if array.shape else name
        raise ValueError(
            f"{place} is {array[bad][0]}; "
            "leave out or repair values that are not finite numbers"
        )
    return array


def same_length(**arrays: np.ndarray) -> None:
    """Raise a ValueError that names the lengths, unless they are equal."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"unequal lengths: {listed}")
