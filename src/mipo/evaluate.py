"""Metrics and their uncertainty: intervals over seeds, paired differences, win rates, diversity, retrieval, calibration."""

import numpy as np
from scipy import stats


def t_interval(values, level: float = 0.95) -> tuple[float, float, float]:
    r"""Mean and Student interval: mean ± t_{n-1} · s / √n with s² = Σ(v - mean)² / (n - 1).

    shapes  values: (n,), n ≥ 2, one per seed        units  those of the values
    returns (mean, low, high)                        why t  a percentile bootstrap of 3 seeds covers far less than it says
    """
    values = np.asarray(values, float)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return float(mean), float(mean - half), float(mean + half)
