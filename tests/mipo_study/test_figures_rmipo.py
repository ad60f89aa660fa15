"""Figures of chapter 9: what is drawn is what was given; letters can be read; every axis has its unit."""

import io

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from mipo_study.figures import rmipo as draw

pytestmark = pytest.mark.long

RNG = np.random.default_rng(0)
METHODS = ["DPO", "SimPO", "SimPER", "RMiPO", "RMiPO, paper's γ"]
GAPS = {name: RNG.normal(0.1, 0.3, 200) for name in METHODS[:3]}
TUNED = {
    "γ/β (nats per token)": {"A": 0.1, "B": 0.5, "C": 0.55},
    "raw γ": {"A": 0.3, "B": 1.0, "C": 1.4},
}
CURVE = {
    f"{k}{end}": 1 + RNG.random(20)
    for k in ("gamma", "delta_pmi")
    for end in ("", "_std")
}


def seeds(mean, n=3):
    return list(mean + 0.01 * np.arange(n))


CASES = {
    "rows": lambda: draw.rows(
        {
            "adherence (share)": {m: seeds(0.7) for m in METHODS},
            "broken (share)": {m: 0.01 for m in METHODS},
        },
        reference={"adherence (share)": (0.6, "base 0.60")},
    ),
    "exact_pmi": lambda: draw.exact_pmi(
        np.append(GAPS["DPO"], np.nan),
        {f: np.append(GAPS["SimPO"], 0.0) for f in ("start", "drop", "released")},
        {f: {"r": 0.5} for f in ("start", "drop", "released")},
    ),
    "gap_density": lambda: draw.gap_density(GAPS),
    "gamma_density": lambda: draw.gamma_density(
        {
            unit: {"RMiPO": 1.6 - abs(GAPS["DPO"]), "other": abs(GAPS["SimPO"])}
            for unit in TUNED
        },
        TUNED,
    ),
    "weights": lambda: draw.weights(
        GAPS["DPO"],
        abs(GAPS["SimPO"]),
        ([-1, 0, 1], [0.9, 0.8, 0.1]),
        {"learned": seeds(0.95), "hard": seeds(1.01)},
    ),
    "unrest": lambda: draw.unrest({"RMiPO": CURVE, "with warm-up": CURVE}, cut=4),
    "wrong_labels": lambda: draw.wrong_labels(
        [0, 0.2, 0.4],
        {m: [seeds(0.8 - s) for s in (0, 0.1, 0.2)] for m in METHODS[:3]},
        base=0.6,
    ),
}


@pytest.fixture(params=CASES)
def fig(request):
    made = CASES[request.param]()
    yield made
    plt.close(made)


def test_axes_have_labels_and_letters_a_readable_size(fig):
    fig.canvas.draw()
    for ax in fig.axes:
        assert ax.get_xlabel() or ax.get_xticklabels()[0].get_text()
    texts = [t for t in fig.findobj(Text) if t.get_text().strip()]
    assert texts and min(t.get_fontsize() for t in texts) >= 8


@pytest.mark.parametrize("name", CASES)
def test_the_same_data_give_the_same_bytes(name):
    def save():
        buffer, made = io.StringIO(), CASES[name]()
        made.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(made)
        return buffer.getvalue()

    assert save() == save()


def test_rows_draw_each_seed_and_write_each_mean():
    values = {"DPO": [0.70, 0.72, 0.74], "RMiPO": [0.61, 0.62, 0.63]}
    fig = draw.rows({"adherence (share)": values})
    points = np.concatenate([c.get_offsets()[:, 0] for c in fig.axes[0].collections])
    for by_seed in values.values():
        assert all(np.isclose(points, v).any() for v in by_seed)
    assert {"0.720", "0.620"} <= {t.get_text() for t in fig.axes[0].texts}
    with pytest.raises(ValueError, match="'b' has arms"):
        draw.rows({"a": {"DPO": 1.0}, "b": {"RMiPO": 1.0}})


def test_reference_lines_are_in_view_and_intervals_of_shares_do_not_widen_the_axis():
    title = "adherence (share)"
    fig = draw.rows(
        {title: {"KTO": [0.2, 0.78, 0.77], "DPO": [0.78, 0.77, 0.79]}},
        reference={title: (0.05, "base 0.05")},
    )
    low, high = fig.axes[0].get_xlim()
    assert -0.03 <= low <= 0.05 and 0.79 <= high <= 1.03


def test_a_method_has_one_colour():
    assert draw.colour_of("RMiPO") == "#D55E00" != draw.colour_of("DPO")
    assert draw.colour_of("KTO", 0) != draw.colour_of("KTO", 1)


def test_density_of_gamma_adds_up_to_one():
    fig = draw.gamma_density(
        {"γ": {"RMiPO": np.array([1.6, 1.6, 1.2, 0.4])}}, {"γ": {"A": 0.5}}
    )
    heights = [p.get_xy()[:, 1].max() for p in fig.axes[0].patches]
    assert max(heights) == pytest.approx(0.5)
