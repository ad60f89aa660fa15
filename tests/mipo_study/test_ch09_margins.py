"""RMiPO's margin on held-out pairs, the nearest tuned value, a tuned knob in words."""

import numpy as np
import pytest
import torch

from mipo import losses
from mipo_study import ch09_margins, methods


def test_gamma_is_the_loss_s_own():
    values = np.linspace(-1, 3, 9)
    np.testing.assert_allclose(
        ch09_margins.gamma(values), losses.gamma_decay(torch.tensor(values)).numpy()
    )


def test_nearest():
    assert ch09_margins.nearest(1.45, [0.3, 1.0, 1.4, 1.6]) == pytest.approx(0.05)
    assert ch09_margins.nearest(0.1, {"a": 0.5}.values()) == pytest.approx(0.4)


def test_a_knob_in_words_is_that_of_the_loss():
    assert ch09_margins.knob("simpo", 3.0) == "γ × 3"
    assert ch09_margins.knob("ipo", 0.333) == "τ × 0.333"
    assert ch09_margins.knob("simper", 1.0) == "–"
    knobs = {methods.METHODS[n].knob for n in methods.KIN} - {""}
    assert knobs <= set(ch09_margins.SYMBOLS)


def test_the_published_table_is_of_methods_that_we_train():
    assert set(ch09_margins.SIMPO_TABLE) <= set(methods.KIN)
    assert {len(row) for row in ch09_margins.SIMPO_TABLE.values()} == {4}
