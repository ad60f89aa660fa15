"""Metrics and how sure they are.

===================  ===================================================================
``intervals``        Student's and Wilson's interval, the clustered paired bootstrap
``comparisons``      win rates, coverage, retrieval, rank correlation, slopes, lengths
``forecasts``        probabilities against outcomes
``diversity``        how varied a set of texts is
``answers``          many answers to one question: pass@k, majority
``reference_free``   replies to people of whom nothing says what is right
``embedding``        sentences as vectors, by an encoder: a yardstick
===================  ===================================================================
"""

from mipo.evaluate.comparisons import (
    coverage,
    gain_slope,
    length_stats,
    retrieval_credit,
    spearman,
    win_rate,
)
from mipo.evaluate.diversity import (
    compression_ratio,
    distinct_n,
    self_bleu,
    self_bleu_signature,
    token_lengths,
)
from mipo.evaluate.forecasts import brier, calibration, log_loss
from mipo.evaluate.intervals import paired_bootstrap, t_interval, wilson_interval

__all__ = [
    "brier",
    "calibration",
    "compression_ratio",
    "coverage",
    "distinct_n",
    "gain_slope",
    "length_stats",
    "log_loss",
    "paired_bootstrap",
    "retrieval_credit",
    "self_bleu",
    "self_bleu_signature",
    "spearman",
    "t_interval",
    "token_lengths",
    "wilson_interval",
    "win_rate",
]
