"""What tuning is worth: order statistics by hand and by listing, regret, ties, grids of one size, runs that diverged."""

import itertools

import numpy as np
import pytest
from figure_checks import assert_readable
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mipo import models
from mipo.losses.declaration import check
from mipo.worlds.language_model import build_tokenizer
from mipo_study import ch11_tuning, experiment, methods
from mipo_study.figures import tuning as draw

pytestmark = pytest.mark.long

RATES = [1e-4, 3e-4]
AXES = {
    "dpo_betas": [0.1, 1.0],
    "betas": [2.0],
    "ratios": [0.5, 1.0],
    "margins": [[0.3, 1.6, 1.0], [0.15, 0.8, 1.0]],
}
shares = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=6
)  # few values: many ties


# ---- expected best ----


def test_expected_best_by_hand():
    # of 6 pairs of four values, 0.9 is the best in 3, 0.6 in 2, 0.5 in 1; of 4 triples, 0.9 in 3 and 0.6 in 1
    by_hand = [2.2 / 4, (3 * 0.9 + 2 * 0.6 + 0.5) / 6, (3 * 0.9 + 0.6) / 4, 0.9]
    np.testing.assert_allclose(ch11_tuning.expected_best([0.6, 0.2, 0.9, 0.5]), by_hand)


def test_expected_best_of_one_point_and_of_equals():
    assert ch11_tuning.expected_best([0.7]).tolist() == [0.7]
    np.testing.assert_allclose(ch11_tuning.expected_best([0.4] * 5), 0.4)


@given(shares)
def test_expected_best_equals_listing_every_draw(values):
    listed = [
        np.mean([max(some) for some in itertools.combinations(values, k)])
        for k in range(1, len(values) + 1)
    ]
    np.testing.assert_allclose(ch11_tuning.expected_best(values), listed, atol=1e-12)


@given(shares, st.randoms(use_true_random=False))
def test_payoff_equals_listing_every_draw_with_ties_shared(scores, rng):
    payoff = [rng.random() for _ in scores]

    def paid(some):  # equal scores: any of them, each as likely
        top = max(scores[i] for i in some)
        return np.mean([payoff[i] for i in some if scores[i] == top])

    listed = [
        np.mean([paid(some) for some in itertools.combinations(range(len(scores)), k)])
        for k in range(1, len(scores) + 1)
    ]
    np.testing.assert_allclose(
        ch11_tuning.expected_best(scores, payoff), listed, atol=1e-12
    )


@given(shares)
def test_expected_best_rises_from_the_mean_to_the_largest(values):
    curve = ch11_tuning.expected_best(values)
    assert (
        np.isclose(curve[0], np.mean(values))
        and np.isclose(curve[-1], max(values))
        and (np.diff(curve) > -1e-12).all()
    )


def test_expected_best_stays_exact_on_a_large_grid():
    n = 300
    np.testing.assert_allclose(
        ch11_tuning.expected_best([0.0] * (n - 1) + [1.0]), np.arange(1, n + 1) / n
    )


def test_crossed_chooses_on_one_seed_and_pays_on_another():
    per_seed = [[0.1, 0.9], [0.6, 0.2]]  # each seed prefers what is worse on the other
    np.testing.assert_allclose(ch11_tuning.crossed(per_seed), [[0.4, 0.2], [0.5, 0.1]])
    assert ch11_tuning.crossed(np.zeros((3, 5))).shape == (6, 5)
    np.testing.assert_allclose(
        ch11_tuning.crossed([[0.1, 0.9]]), [[0.5, 0.9]]
    )  # one seed pays itself


# ---- choice, regret, region ----


def test_choose_prefers_the_favourite_among_equals_then_the_first():
    scores = {"a": 0.2, "b": 0.9, "c": 0.9}
    assert (
        ch11_tuning.choose(scores) == "b"
        and ch11_tuning.choose(scores, "c") == "c"
        and ch11_tuning.choose(scores, "a") == "b"
    )
    assert ch11_tuning.choose(scores, "elsewhere") == "b"


def test_regret_by_hand_and_its_sign():
    np.testing.assert_allclose(
        ch11_tuning.regret([0.9, 0.7], [0.8, 0.75]), [0.1, -0.05]
    )
    with pytest.raises(ValueError, match="one value per seed"):
        ch11_tuning.regret([0.9, 0.7], [0.8])


def test_good_share_by_hand():
    grid = [0.9, 0.88, 0.85, 0.0]
    assert [ch11_tuning.good_share(grid, w) for w in (0, 0.02, 0.05, 1)] == [
        0.25,
        0.5,
        0.75,
        1.0,
    ]
    assert ch11_tuning.good_share([0.3, 0.3], 0) == 1  # both are the best
    with pytest.raises(ValueError, match="at least 0"):
        ch11_tuning.good_share(grid, -0.1)


def test_runs_needed_is_the_first_that_reaches_the_level():
    assert [
        ch11_tuning.runs_needed([0.5, 0.7, 0.9], level)
        for level in (0.4, 0.7, 0.71, 0.9, 0.95)
    ] == [1, 2, 3, 3, None]


@pytest.mark.parametrize(
    "measure",
    [
        ch11_tuning.expected_best,
        lambda v: ch11_tuning.good_share(v, 0.1),
        lambda v: ch11_tuning.regret(v, v),
        lambda v: ch11_tuning.choose(dict(enumerate(v))),
        lambda v: ch11_tuning.runs_needed(v, 0.5),
    ],
)
@pytest.mark.parametrize("values", [[0.5, float("nan")], [float("inf"), 0.5], []])
def test_what_is_no_number_is_refused(measure, values):
    with pytest.raises(ValueError, match="diverged counts as 0|list of numbers"):
        measure(values)


def test_payoff_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 scores and 1 payoffs"):
        ch11_tuning.expected_best([0.1, 0.2], [0.3])


# ---- grids ----


def test_grids_have_one_size_and_hold_the_published_settings():
    grids = ch11_tuning.grids(RATES, **AXES)
    assert {m: len(points) for m, points in grids.items()} == {
        "dpo": 4,
        "simpo": 4,
        "rmipo": 4,
    }
    for method, default in ch11_tuning.published(RATES[1]).items():
        assert default in grids[method]
    names = [p.name for points in grids.values() for p in points]
    assert (
        len(set(names)) == 12
        and "simpo-beta-2-gamma-1-lr-0.0001" in names
        and "dpo-beta-0.1-lr-0.0003" in names
    )


def test_published_settings_are_those_of_chapter_9():
    for method, point in ch11_tuning.published(3e-4).items():
        # So that its runs are found again.
        assert point.setting == methods.setting(method)
    pairs = {
        "dpo": 0.1,
        "simpo": 2.0,
        "rmipo": 2.0,
    }  # TRL's default; SimPO's README; RMiPO's configurations
    assert {m: p.beta for m, p in ch11_tuning.published(3e-4).items()} == pairs
    assert dict(ch11_tuning.published(1.0)["simpo"].more) == {"gamma": 1.0}  # γ/β = 0.5


def test_every_setting_of_the_grid_is_one_that_its_loss_takes():
    for points in ch11_tuning.grids(RATES, **AXES).values():
        for p in points:
            check(p.setting["loss"], p.setting["loss_kwargs"])


def test_rmipo_names_only_what_differs_from_its_code():
    assert ch11_tuning.rmipo(1e-4, 2.0, [0.3, 1.6, 1.0]).more == ()
    assert dict(ch11_tuning.rmipo(1e-4, 2.0, [0.3, 1.6, 0.25]).more) == {"scale": 0.25}
    assert (
        ch11_tuning.rmipo(1e-4, 2.0, [0.3, 1.6, 0.25]).row
        == "γ 0.3–1.6, scale 0.25, β = 2"
    )
    with pytest.raises(ValueError):
        ch11_tuning.rmipo(1e-4, 2.0, [0.3, 1.6])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dpo_betas": [0.1]}, "equal budgets"),
        ({"dpo_betas": [0.2, 1.0]}, "dpo: its published setting"),
        ({"ratios": [0.1, 1.0]}, "simpo: its published setting"),
        ({"dpo_betas": [0.1, 0.1]}, "dpo: a setting stands"),
        (
            {"margins": [[0.3, 1.6, 2.0], [0.3, 1.6, 0.5]]},
            "rmipo: its published setting",
        ),
    ],
)
def test_grids_that_compare_unlike_with_unlike_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ch11_tuning.grids(RATES, **{**AXES, **change})


def test_along_moves_one_axis_and_at_moves_the_rate():
    points = ch11_tuning.grids(
        RATES,
        **{**AXES, "betas": [2.0, 10.0], "ratios": [0.5], "margins": [[0.3, 1.6, 1.0]]},
    )["simpo"]
    start = ch11_tuning.published(RATES[0])["simpo"]
    assert [p.lr for p in ch11_tuning.along(points, start, "lr")] == RATES
    assert [
        dict(p.more)["gamma"] for p in ch11_tuning.along(points, start, "beta")
    ] == [1.0, 5.0]  # γ/β stays
    assert ch11_tuning.along(points, start, "margin") == [start]
    assert (
        start.at(3).lr == 3e-4
        and start.at(1 / 3).lr == 3.33e-5
        and start.at(3).setting == start.setting
    )
    with pytest.raises(ValueError, match="choose one of"):
        ch11_tuning.along(points, start, "gamma")


# ---- a run that diverges ----


def test_a_run_that_diverges_counts_as_broken_and_the_others_are_kept(tmp_path):
    tokenizer = build_tokenizer()
    for part in (
        models.small_model(tokenizer, hidden=16, layers=1, heads=2, init=0.3),
        tokenizer,
    ):
        part.save_pretrained(tmp_path / "base")
    base = tmp_path / "base"
    pairs = experiment.label_pairs(
        tmp_path, base=base, seed=0, n_people=1, progress=False
    )
    points = list(ch11_tuning.published(1e-3).values()) + [ch11_tuning.dpo(1e38, 0.1)]
    settings = {p.name: p.setting | {"lr": p.lr} for p in points}
    shared = {"run_dir": tmp_path, "split": "select", "n_people": 2, "batch_size": 2}
    inputs = {0: {"base": base, "pairs": pairs}}
    table = experiment.compare(settings, inputs, workers=2, progress=False, **shared)
    made = set((tmp_path / "runs").glob("train-*"))
    assert len(made) == 4  # the three that worked and the one that did not
    again = experiment.compare(settings, inputs, progress=False, **shared)
    assert set((tmp_path / "runs").glob("train-*")) == made
    assert [bool(trial.failed) for trial in table.run] == [False] * 3 + [True]
    assert again.adherence.to_list() == table.adherence.to_list()
    last = table.run[points[-1].name, 0]
    assert (last.metrics["adherence"], last.metrics["valid"]) == (0.0, 0.0)
    assert np.isfinite(ch11_tuning.expected_best(table.adherence)).all()


# ---- figures ----

TABLE = np.array([[0.62, 0.71, 0.89], [0.61, 0.70, 0.05], [np.nan, 0.6, 0.0]])
SEEDS = {
    m: 0.1 * i + np.array([0.01, 0.02, 0.03])
    for i, m in enumerate(("DPO", "SimPO", "RMiPO"))
}
CASES = {
    "heat_map": lambda: draw.heat_map(
        ["β = 1", "β = 2", "γ/β = 0.5, β = 10"],
        [1.5e-4, 4.5e-4, 1.35e-3],
        TABLE,
        base=0.6,
        broken=np.nan_to_num(TABLE) < 0.3,
        marks={"published": (0, 1), "best": (0, 2)},
    ),
    "rate_lines": lambda: draw.rate_lines(
        1.5e-4 * 3 ** np.linspace(0, 2.5, 6),
        {m: np.tile(v, (6, 1)) + 0.6 for m, v in SEEDS.items()},
        {m: np.tile(v, (6, 1)) for m, v in SEEDS.items()},
        base=0.55,
        chosen={"DPO": 3e-4, "RMiPO": 1e-4},
    ),
    "search_curves": lambda: draw.search_curves(
        {
            m: np.sort(0.6 + i / 10 + np.arange(72).reshape(2, 36) / 400)
            for i, m in enumerate(SEEDS)
        },
        levels={"RMiPO, rate tuned": 0.612, "RMiPO as published": 0.61},
        short={"RMiPO": np.array([[0.75, 0.78], [0.74, 0.8]])},
    ),
    "regret_bars": lambda: draw.regret_bars(
        {"as published": SEEDS, "rate tuned": SEEDS}, allowed=0.01
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_figure_is_readable(name):
    fig = CASES[name]()
    assert isinstance(fig, Figure)
    assert_readable(fig)
    plt.close(fig)


def test_heat_map_writes_hatches_and_frames_what_was_given():
    ax = CASES["heat_map"]().axes[0]
    assert [t.get_text() for t in ax.texts] == [
        "0.620",
        "0.710",
        "0.890",
        "0.610",
        "0.700",
        "0.050",
        "–",
        "0.600",
        "0.000",
    ]
    hatched = [(p.get_x() + 0.5, p.get_y() + 0.5) for p in ax.patches if p.get_hatch()]
    assert hatched == [(2, 1), (0, 2), (2, 2)]
    frames = [
        (
            round(p.get_x() + p.get_width() / 2, 6),
            round(p.get_y() + p.get_height() / 2, 6),
        )
        for p in ax.patches
        if not p.get_hatch()
    ]
    assert frames == [(1, 0), (2, 0)]  # published, best
    plt.close("all")


def test_rates_are_written_short():
    assert [draw.rate(lr) for lr in (1.5e-4, 1e-3, 0.00234, 0.5)] == [
        "1.5e-4",
        "1e-3",
        "2.34e-3",
        "5e-1",
    ]
