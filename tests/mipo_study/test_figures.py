"""Figures of the small world and of training: what is drawn is what was given, and a reader can read it."""

import io

import numpy as np
import pytest
from figure_checks import assert_readable
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mipo.numbers import Number
from mipo_study.figures import cost, style, training, world
from mipo_study.methods import METHODS

pytestmark = pytest.mark.long

RNG = np.random.default_rng(0)
ARMS = [
    "sft",
    "mipo-random",
    "mipo-missing",
    "context-infonce",
    "sami",
    "mi-reward",
    "cad",
]
LEVELS = dict(zip(ARMS, [0.57, 0.73, 0.72, 0.66, 0.60, 0.68, 0.79], strict=True))
TASKS = {
    "email": 1.02,
    "explain": 0.80,
    "summarise": 0.22,
    "recommend": 0.78,
    "lookup": 0.03,
}
RATES, BETA = [3e-5, 1e-4, 3e-4], [0.1, 0.3, 1.0, 3.0]
PRIOR = {
    "role": {"programmer": 0.5, "owner": 0.3, "teenager": 0.2},
    "tone": {"friendly": 0.5, "formal": 0.35, "blunt": 0.15},
    "detail": {"short": 0.65, "detailed": 0.35},
    "units": {"metric": 0.7, "imperial": 0.3},
    "hobby": {"cooking": 0.4, "running": 0.3, "music": 0.2, "chess": 0.1},
    "city": {"Paris": 0.4, "Lagos": 0.3, "Lima": 0.2, "Oslo": 0.1},
}


def seeds(mean, sd=0.01, n=3):
    return mean + sd * RNG.normal(size=n)


def curve(start, end, n=60, s=3):
    step = np.arange(n)
    return (
        end
        + (start - end) * np.exp(-step / 15)
        + 0.02 * RNG.normal(size=(s, n)) * (step > 0)
    )


def by_arm(f):
    return {a: f(v) for a, v in LEVELS.items()}


OPTIMUM = (np.geomspace(0.1, 3, 50), 0.56 + 0.4 / (1 + np.geomspace(0.1, 3, 50)))
EXACT = -RNG.gamma(4, 2, 400)
CASES = {
    "adherence_by_arm": lambda: training.adherence_by_arm(
        by_arm(seeds), base=0.56, optimum=0.82
    ),
    "beta_sweep": lambda: training.beta_sweep(
        BETA,
        {
            a: np.array([seeds(0.56 + 0.3 / (1 + b) - d) for b in BETA])
            for a, d in (("mipo-random", 0.03), ("mipo-missing", 0.05))
        },
        optimum=OPTIMUM,
        base=0.56,
        invalid={
            a: np.array([seeds(0.02 / b, 0.002) for b in BETA])
            for a in ("mipo-random", "mipo-missing")
        },
    ),
    "training_curves": lambda: training.training_curves(
        {
            a: {
                "step": np.arange(60),
                "loss": curve(np.log(2), end),
                "margin": curve(0, 3 - 3 * end),
            }
            for a, end in (
                ("mipo-random", 0.5),
                ("mipo-missing", 0.45),
                ("infonca", 0.55),
            )
        },
        smooth=3,
    ),
    "lr_grid": lambda: training.lr_grid(
        RATES,
        by_arm(
            lambda v: np.array([seeds(0.56 + (v - 0.56) * k) for k in (0.3, 1, 1.1)])
        ),
        by_arm(
            lambda v: np.array(
                [seeds(0.01 + 0.05 * (v - 0.5) * k, 0.001) for k in (0.3, 1, 4)]
            )
        ),
        base=0.56,
        chosen=dict.fromkeys(ARMS, 1e-4),
    ),
    "tradeoff": lambda: training.tradeoff(
        by_arm(lambda v: (seeds(0.01 + abs(v - 0.6) / 10, 0.001), seeds(v))),
        base=(0.005, 0.56),
        optimum=(0.0, 0.82),
    ),
    "arm_panels, reference": lambda: style.arm_panels(
        {
            "adherence (share)": {"mipo-random": seeds(0.73), "mipo-lora": seeds(0.71)},
            "outside grammar (share)": {
                "mipo-random": seeds(0.01, 0.002),
                "mipo-lora": seeds(0.012, 0.002),
            },
            "trained weights (millions)": {"mipo-random": 0.93, "mipo-lora": 0.06},
        },
        reference={"adherence (share)": (0.56, "base")},
    ),
    "kl_to_optimum": lambda: training.kl_to_optimum(
        {"base": 1.1, **by_arm(lambda v: seeds(1 - v))}
    ),
    "people_prior": lambda: world.people_prior(PRIOR),
    "task_information": lambda: world.task_information(
        TASKS, ceiling=(np.log(2), "log 2")
    ),
    "base_vs_exact": lambda: world.base_vs_exact(
        EXACT, EXACT + 0.3 * RNG.normal(size=400), groups=list(TASKS) * 80
    ),
    "training_loss": lambda: world.training_loss(
        np.linspace(2.4, 0.8, 40) + np.zeros((2, 1)), 0.7
    ),
    "pair_differences": lambda: world.pair_differences(
        {
            k: {f"{t}: slot {i}": RNG.random() for t in TASKS for i in (1, 2)}
            for k in ("random context", "missing context", "random prompt")
        }
    ),
    "pmi_histogram": lambda: world.pmi_histogram(
        {"chosen": RNG.normal(0.8, 1, 900), "rejected": RNG.normal(-0.5, 1, 900)}
    ),
    "gain_vs_information": lambda: world.gain_vs_information(
        TASKS,
        {
            a: {t: seeds(g * i, 0.01) for t, i in TASKS.items()}
            for a, g in (("mipo-random", 0.2), ("sft", 0.01))
        },
        optimum={t: 0.27 * i for t, i in TASKS.items()},
    ),
    "win_tie_loss": lambda: world.win_tie_loss(
        by_arm(lambda v: {"win": v - 0.3, "tie": 0.5, "loss": 0.8 - v})
    ),
    "robustness": lambda: world.robustness(
        {
            k: {a: seeds(LEVELS[a] - d) for a in ARMS[:3]}
            for k, d in (
                ("full", 0),
                ("incomplete", 0.06),
                ("noisy", 0.1),
                ("conflicting", 0.08),
            )
        },
        exact={"full": 0.56, "incomplete": 0.52, "noisy": 0.47, "conflicting": 0.5},
    ),
    "arm_panels, digits": lambda: style.arm_panels(
        {
            "self-BLEU": by_arm(lambda v: seeds(60 * v)),
            "distinct bigrams": by_arm(lambda v: seeds(1 - v)),
            "compression ratio": by_arm(lambda v: seeds(5 * v)),
        },
        digits={"self-BLEU": 1},
    ),
    "over_personalisation": lambda: world.over_personalisation(
        {a: by_arm(lambda v: seeds(0.1 + v / 50, 0.003)) for a in ("pet", "city")},
        chance={"pet": 0.114, "city": 0.09},
    ),
    "length_distributions": lambda: world.length_distributions(
        by_arm(lambda v: RNG.poisson(25 * v, 300))
    ),
}


LOSSES = {"sft": 0.5, "dpo": 1.0, "dpo-live": 1.33, "simpo": 1.0, "rmipo": 1.16}
AT = [(384, 128), (256, 256), (128, 384)]
SHARES = np.linspace(0.01, 0.99, 50)
CASES |= {
    "cost_ratios": lambda: cost.ratios(
        {
            at: {m: Number(v, v - 0.03, v + 0.05, 9, []) for m, v in LOSSES.items()}
            for at in AT
        },
        dict.fromkeys(AT, LOSSES),
    ),
    "cost_operations": lambda: cost.operations(
        {m: [v, 2 * v] for m, v in LOSSES.items()},
        {m: [v, 2 * v] for m, v in LOSSES.items()},
    ),
    "cost_memory": lambda: cost.memory(
        {at: dict.fromkeys(LOSSES, 5.0) for at in AT},
        {at: {m: 14.7 * v for m, v in LOSSES.items()} for at in AT},
    ),
    "cost_savings": lambda: cost.savings(
        {
            "DPO, live": (SHARES, (1 - SHARES) / 4),
            "DPO, cached, 3 epochs": (SHARES, (1 - 3 * SHARES) / 10),
            "SimPO": (SHARES, -SHARES / 3),
        },
        {"DPO, live": [(0.25, Number(0.18, 0.1, 0.24, 9, []))]},
        claimed=0.15,
        marks={"small world": 0.37},
    ),
    "cost_search": lambda: cost.search(
        range(1, 13),
        {m: LOSSES[m] * np.arange(1, 13) for m in ("dpo", "dpo-live", "simpo")},
        own=1.16,
        claimed=0.15,
        marks={"DPO's β": ("dpo", 3), "SimPO's β × γ": ("simpo", 12)},
    ),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", CASES)
def test_figure_is_readable(name):
    fig = CASES[name]()
    assert isinstance(fig, Figure) and to_rgb(fig.get_facecolor()) == (1, 1, 1)
    assert all(ax.get_xlabel() or ax.get_title() for ax in fig.axes[-1:])
    assert_readable(fig)
    plt.close(fig)


def test_svg_is_the_same_twice():
    def svg():
        style.use_style()
        buffer = io.BytesIO()
        world.people_prior(PRIOR).savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert svg() == svg()


def test_strip_points_draws_seeds_mean_and_interval():
    fig, ax = style.subplots()
    mean, low, high = style.strip_points(
        ax, 2.0, [1, 2, 3]
    )  # interval as in test_evaluate: 2 ± 2.48414
    points = [c.get_offsets() for c in ax.collections]
    assert sorted(points[0][:, 1]) == [1, 2, 3] and points[1].tolist() == [[2, 2]]
    assert ax.lines[0].get_ydata() == pytest.approx([low, high]) and (
        low,
        high,
    ) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert style.strip_points(ax, 3.0, 0.5, horizontal=True) == (0.5, 0.5, 0.5)
    assert ax.collections[-1].get_offsets().tolist() == [[0.5, 3.0]]


def test_spread_keeps_order_and_distance():
    assert style.spread([0, 10], 2).tolist() == [0, 10]  # far apart: untouched
    assert style.spread([1, 1.0, 5], 1).tolist() == [0.5, 1.5, 5]
    placed = style.spread([3.0, 0.0, 0.1, 0.2, 1.0], 1.0)
    assert (np.diff(np.sort(placed)) >= 1 - 1e-9).all() and np.argsort(
        placed
    ).tolist() == [1, 2, 3, 4, 0]


SHOWN_TOGETHER = (
    "base",
    "sft",
    "mipo-random",
    "mipo-missing",
    "mipo-lora",
    "infonca",
    "context-infonce",
    "sami",
    "mi-reward",
    "cad",
    "optimum",
    "placebo",
)


def test_methods_of_one_figure_are_told_apart():
    colours = {style.arm_colour(name) for name in SHOWN_TOGETHER}
    markers = {style.arm_marker(name) for name in SHOWN_TOGETHER}
    assert len(colours) == len(markers) == len(SHOWN_TOGETHER)


def test_looks_come_from_the_table_of_methods_by_name_or_label():
    assert style.arm_colour("rmipo") == style.arm_colour("RMiPO") == "#D55E00"
    assert style.arm_marker("mipo-random") == style.arm_marker("MIPO, random") == "D"
    assert style.arm_colour("strange", 1) == style.PALETTE[1]
    assert style.arm_colour("strange", 1, rest=style.GREY) == style.GREY
    assert style.arm_colour("ipo", len(style.PALETTE) + 2) == style.PALETTE[2]
    assert style.arm_marker("strange") == "o"


def test_ink_is_dark_enough_for_letters():
    for name in METHODS:
        colour = style.ink(style.arm_colour(name))
        assert np.array(colour) ** 2.2 @ [0.2126, 0.7152, 0.0722] <= 0.3
    assert style.ink("#0072B2") == to_rgb("#0072B2")  # already dark


def test_running_mean_starts_at_the_first_value():
    assert training._running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [
        1,
        2,
        4,
        6,
    ]
    assert training._running_mean(np.array([1.0, 3.0]), 1).tolist() == [1, 3]


def test_training_curves_show_log_2():
    fig = training.training_curves(
        {"mipo-random": {"step": [0, 1], "loss": [np.log(2), 0.5]}}
    )
    assert any(
        line.get_ydata()[0] == pytest.approx(np.log(2))
        and len(set(line.get_ydata())) == 1
        for line in fig.axes[0].lines
    )


def test_win_tie_loss_bars_are_the_shares():
    fig = world.win_tie_loss({"sft": {"win": 0.25, "tie": 0.5, "loss": 0.25}})
    assert [p.get_width() for p in fig.axes[0].patches] == [0.25, 0.5, 0.25]
    assert "75 %" in [t.get_text() for t in fig.axes[0].texts]  # win or tie


def test_gain_line_is_least_squares():
    fig = world.gain_vs_information(
        {"a": 0.0, "b": 1.0, "c": 2.0}, {"sft": {"a": 0.1, "b": 0.3, "c": 0.5}}
    )
    line = next(
        x for x in fig.axes[0].lines if x.get_color() == style.arm_colour("sft")
    )
    assert np.diff(line.get_ydata()) / np.diff(line.get_xdata()) == pytest.approx([0.2])


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: world.people_prior({"role": {"a": 0.4}}),
            "'role': shares add up to 0.4",
        ),
        (lambda: world.win_tie_loss({"sft": {"win": 1, "tie": 1, "loss": 0}}), "'sft'"),
        (lambda: world.base_vs_exact([1.0], [1.0, 2.0]), r"\(1,\).*\(2,\)"),
        (
            lambda: world.pair_differences({"x": {"a": 1}, "y": {"b": 1}}),
            "'y' has slots",
        ),
        (lambda: style.arm_panels({}), "at least one arm"),
        (lambda: cost.ratios({}, {}), "at least one method"),
        (lambda: style.arm_panels({"m": {"sft": 1}, "n": {"cad": 1}}), "'n' has arms"),
    ],
)
def test_errors_name_the_field(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_training_loss_is_smoothed_and_the_floor_drawn():
    losses = np.array([[2.0, 1.0, 0.0]])
    ax = world.training_loss(losses, 0.5, width=2).axes[0]
    curve = ax.lines[0].get_ydata()
    assert list(curve) == [1.5, 0.5]
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in ax.lines]
    assert world.training_loss(losses, 0.5).axes[0].lines[0].get_ydata() == [1.0]


@pytest.mark.filterwarnings("error")
def test_points_without_a_face_are_drawn_by_their_lines():
    assert style.rim("o")["edgecolor"] == "white"
    assert style.rim("+") == {"linewidths": 1.6}
    figure = training.tradeoff({"mipo-bf16": ([0.1, 0.2], [0.3, 0.4])})
    assert figure.axes
