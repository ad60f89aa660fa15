"""decay: closed forms against roots, against automatic differentiation, against following the update; and its figures."""

import re
import shutil
import subprocess
from dataclasses import asdict
from math import exp, inf, isnan, log, sqrt

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from figure_checks import assert_readable
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from numpy.testing import assert_allclose
from torch.testing import assert_close

from mipo import losses
from mipo.theory import margin as decay
from mipo_study.figures import decay as draw
from mipo_study.figures import sliders

CODE, PAPER = decay.Margin(), decay.Margin(convention="paper")
GEN = torch.Generator().manual_seed(0)
BROWSER = (
    shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
margins = st.builds(
    lambda beta, low, more, scale, convention: decay.Margin(
        beta, low, low + more, scale, convention
    ),
    st.floats(0.2, 8),
    st.floats(-1, 2),
    st.floats(0, 3),
    st.floats(0.1, 5),
    st.sampled_from(["code", "paper"]),
)
nats = st.floats(-4, 4)


def T(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape):
    return torch.randn(shape, generator=GEN, dtype=torch.float64)


# ---- one pair ----


@pytest.mark.parametrize(
    "margin", [CODE, PAPER, decay.Margin(0.7, -0.2, 3.0, 0.4)], ids=str
)
def test_weight_is_the_slope_of_the_loss_that_is_trained(margin):
    delta, delta_pmi = normal(50).requires_grad_(), normal(50)
    trained = losses.rmipo(delta, torch.zeros(50).double(), delta_pmi, **asdict(margin))
    assert_close(margin.loss(delta, delta_pmi), trained)
    (slope,) = torch.autograd.grad(trained.sum(), delta)
    assert_close(-margin.beta * margin.weight(delta.detach(), delta_pmi), slope)


def test_weight_by_hand():
    """sigma(2 (gamma - delta)): gamma = 1.6 at or below 0, 0.3 + 1.3 e^-delta above; SimPO's gamma / beta is 0.5."""
    at = [-0.5, 0, 0.5, 1, 2]
    assert_allclose(CODE.weight(at, at), [0.985, 0.961, 0.764, 0.391, 0.045], atol=5e-4)
    assert_allclose(
        decay.Margin(gamma_min=0.5, gamma_max=0.5).weight(at, at),
        [0.881, 0.731, 0.5, 0.269, 0.047],
        atol=5e-4,
    )
    assert_allclose(PAPER.weight(0.8, 0), 0.5)  # gamma / beta = 0.8
    assert_allclose(CODE.weight([-500, 500], [0, 0]), [1, 0])


def test_target_is_simpos_ratio():
    assert_allclose(CODE.target([-1, 0, log(2)]), [1.6, 1.6, 0.95])
    assert_allclose(PAPER.target([-1, 0, log(2)]), [0.8, 0.8, 0.475])


def test_needed_pmi_by_hand():
    assert_allclose(
        [CODE.needed_pmi(g) for g in (1.6, 0.95, 0.4)], [0, log(2), log(13)], atol=1e-12
    )
    assert decay.Margin(scale=3.0).needed_pmi(0.95) == pytest.approx(3 * log(2))
    assert (
        CODE.needed_pmi(0.3) == inf
        and isnan(CODE.needed_pmi(0.29))
        and isnan(CODE.needed_pmi(1.61))
    )
    assert_allclose(CODE.gamma(CODE.needed_pmi(1.0)), 1.0)


@given(margins, nats)
def test_centre_is_where_the_weight_is_one_half(margin, prior_gap):
    centre = margin.centre(prior_gap)
    assert float(margin.weight(centre, centre - prior_gap)) == pytest.approx(
        0.5, abs=1e-9
    )


def test_centre_by_hand():
    assert decay.Margin(gamma_min=0.7, gamma_max=0.7).centre() == 0.7
    assert (
        CODE.centre(1.6) == CODE.centre(3.0) == 1.6 and PAPER.centre(0.8) == 0.8
    )  # flat: delta_pmi <= 0
    d = CODE.centre()
    assert d == pytest.approx(0.3 + 1.3 * exp(-d), abs=1e-12) and d == pytest.approx(
        0.854, abs=5e-4
    )


# ---- two replies ----


@pytest.mark.parametrize(
    "p, a, b, beta, gap",
    [
        (0.9, 0, 0, 2.0, log(9) / 2),  # Bradley-Terry
        (0.5, 1.1, 0.3, 5.0, 0.4),  # even labels: half the difference of the margins
        (0.75, log(2), log(2), 1.0, log(2 + sqrt(7))),  # u^2 - 4u - 3 = 0
        (0.25, log(2), log(2), 1.0, -log(2 + sqrt(7))),
        (0.75, 30, 30, 1.0, 30 + log(2)),  # a + log(p / (1-p) - 1)
    ],
)
def test_settled_gap_closed_form(p, a, b, beta, gap):
    assert decay.settled_gap(p, a, b, beta=beta) == pytest.approx(gap, abs=1e-9)


@given(st.floats(0.01, 0.99), st.floats(-2, 3), st.floats(-2, 3), st.floats(0.2, 5))
def test_settled_gap_balances_the_two_pulls(p, a, b, beta):
    d = decay.settled_gap(p, a, b, beta=beta)
    pulls = p / (1 + exp(beta * (d - a))), (1 - p) / (1 + exp(-beta * (d + b)))
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-9)


@pytest.mark.parametrize("margin", [CODE, PAPER], ids=["code", "paper"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("prior_gap", [-1.0, 0.0, 0.6])
def test_rest_equals_closed_form_and_following(p, prior_gap, margin):
    d = margin.rest(p, prior_gap)
    targets = float(margin.target(d - prior_gap)), float(margin.target(prior_gap - d))
    assert decay.settled_gap(p, *targets, beta=margin.beta) == pytest.approx(
        d, abs=1e-12
    )
    last = decay.follow(
        torch.zeros(1, 2).double(),
        T([[[0, p], [1 - p, 0]]]),
        T([1]),
        margin,
        T([prior_gap, 0]),
    )[-1, 0]
    assert float(last[0] - last[1]) == pytest.approx(d, abs=1e-9)
    assert margin.rest(1 - p, -prior_gap) == pytest.approx(
        -d, abs=1e-12
    )  # A and B change places


@given(margins, st.floats(0.02, 0.98), nats)
def test_rest_rises_with_what_is_likelier_without_the_prompt(margin, p, prior_gap):
    here, more = margin.rest(p, prior_gap), margin.rest(p, prior_gap + 0.5)
    assert more >= here - 1e-9
    reach = max(abs(margin.gamma_min), abs(margin.gamma_max)) / (
        1 if margin.convention == "code" else margin.beta
    )
    assert abs(here - log(p / (1 - p)) / margin.beta) <= reach + 1e-8


# ---- tables ----

WINS, P_X = decay.bradley_terry(normal(3, 4)), T([0.5, 0.3, 0.2])


def test_bradley_terry_by_hand():
    assert_close(decay.bradley_terry([[log(3), 0.0]]), T([[[0, 0.75], [0.25, 0]]]))
    assert_close(WINS.sum((1, 2)), torch.ones(3).double())


def test_gaps_by_hand():
    """Reply A has 3/4 after one prompt, 1/4 after the other: popularity 1/2 if they are equally frequent, else 5/8."""
    logits = T([[log(3), 0], [0, log(3)]])
    delta, delta_pmi = decay.gaps(logits, T([0.5, 0.5]))
    assert_close(delta[:, 0, 1], T([log(3), -log(3)]))
    assert_close(delta_pmi, delta)
    assert_close(
        decay.gaps(logits, T([0.75, 0.25]))[1][:, 0, 1], T([log(9 / 5), -log(5)])
    )
    assert_close(
        decay.gaps(logits, T([0.5, 0.5]), T([1.0, 0.0]))[1][:, 0, 1],
        T([log(3) - 1, -log(3) - 1]),
    )


@pytest.mark.parametrize(
    "prior", [None, T([0.3, -0.2, 0.0, 1.0])], ids=["policy", "given"]
)
@pytest.mark.parametrize("margin", [CODE, PAPER], ids=["code", "paper"])
def test_update_is_minus_the_gradient_of_the_loss_over_beta(margin, prior):
    logits = normal(3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(
        decay.expected_loss(logits, WINS, P_X, margin, prior), logits
    )
    assert_close(
        decay.update(logits, WINS, P_X, margin, prior), -gradient / margin.beta
    )


@pytest.mark.parametrize("margin", [CODE, PAPER], ids=["code", "paper"])
def test_attached_loss_has_the_same_value_and_its_own_gradient(margin):
    logits = normal(3, 4).requires_grad_()
    loss = {
        detach: decay.expected_loss(logits, WINS, P_X, margin, detach=detach)
        for detach in (True, False)
    }
    assert_close(loss[True], loss[False])
    held, seen = (
        torch.autograd.grad(loss[detach], logits)[0] for detach in (True, False)
    )
    step = 1e-6 * normal(3, 4)
    there, back = (
        decay.expected_loss(logits.detach() + s * step, WINS, P_X, margin)
        for s in (1, -1)
    )
    assert float((there - back) / 2) == pytest.approx(
        float((seen * step).sum()), rel=1e-4
    )
    assert (held - seen).abs().max() > 1e-3


def test_without_margin_the_update_learns_the_labels():
    rewards = T([[1.0, 0.0, -0.5], [0.2, 0.9, -1.1]])
    zero = decay.Margin(beta=2.0, gamma_min=0.0, gamma_max=0.0)
    last = decay.follow(
        torch.zeros(2, 3).double(), decay.bradley_terry(rewards), T([0.5, 0.5]), zero
    )[-1]
    assert_close(last - last[:, :1], (rewards - rewards[:, :1]) / 2, atol=1e-9, rtol=0)


def test_rotation_only_where_the_policy_makes_its_own_popularity():
    cycle, even = decay.bradley_terry([[2, 1, 0], [0, 2, 1], [1, 0, 2]]), T([1 / 3] * 3)
    logits = decay.follow(torch.zeros(3, 3).double(), cycle, even, CODE)[-1]
    assert decay.update(logits, cycle, even, CODE).abs().max() < 1e-12
    assert decay.rotation(logits, cycle, even, CODE) > 0.01
    assert decay.rotation(logits, cycle, even, CODE, T([0, 0, 0])) < 1e-9
    assert (
        decay.rotation(logits, cycle, even, decay.Margin(gamma_min=0.5, gamma_max=0.5))
        < 1e-9
    )


# ---- conventions and units ----


@given(margins, nats, nats)
def test_code_is_the_paper_with_bounds_times_beta(margin, delta, delta_pmi):
    of = asdict(margin) | {"convention": "code"}
    same = of | {
        "gamma_min": of["gamma_min"] * margin.beta,
        "gamma_max": of["gamma_max"] * margin.beta,
        "convention": "paper",
    }
    assert_close(
        decay.Margin(**of).loss([delta], [delta_pmi]),
        decay.Margin(**same).loss([delta], [delta_pmi]),
    )


@given(margins, nats, nats, st.floats(0.25, 4))
def test_units_cancel_when_every_length_shrinks(margin, delta, delta_pmi, k):
    length = k if margin.convention == "code" else 1  # the paper's gamma has no unit
    other = decay.Margin(
        margin.beta * k,
        margin.gamma_min / length,
        margin.gamma_max / length,
        margin.scale / k,
        margin.convention,
    )
    assert_close(
        other.loss([delta / k], [delta_pmi / k]), margin.loss([delta], [delta_pmi])
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: decay.Margin(beta=0.0), "beta"),
        (lambda: decay.Margin(gamma_min=2.0), "gamma_min"),
        (lambda: decay.Margin(scale=-1.0), "scale"),
        (lambda: decay.Margin(convention="both"), "convention"),
        (lambda: CODE.rest(1.0), "strictly between"),
        (lambda: decay.settled_gap(0.5, 0, 0, beta=-1), "beta"),
    ],
)
def test_errors_name_the_field(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- figures ----

X = np.linspace(-1, 3, 41)
FIGURES = {
    "decay_curve": lambda: draw.decay_curve(
        X,
        {
            "code": CODE.target(X).numpy(),
            "paper": PAPER.target(X).numpy(),
            "SimPO": 0.5 + 0 * X,
        },
        {"platitude": (0, 1.6), "tied": (log(2), 0.95)},
    ),
    "loss_surfaces": lambda: draw.loss_surfaces(
        X,
        X,
        {
            n: m.loss(X[None, :], X[:, None]).numpy()
            for n, m in (("code", CODE), ("paper", PAPER))
        },
        {"code": CODE.target(X).numpy(), "paper": PAPER.target(X).numpy()},
    ),
    "weights": lambda: draw.weights(
        X,
        {
            "RMiPO, code": CODE.weight(X, X).numpy(),
            "RMiPO, paper": PAPER.weight(X, X).numpy(),
        },
        {f"Δpmi = {v:g}": CODE.weight(X, v).numpy() for v in (0, 0.5, 1, 3)},
    ),
    "resting_gaps": lambda: draw.resting_gaps(
        np.linspace(0.02, 0.98, 9),
        {
            n: np.linspace(-2, 2, 9) * k
            for n, k in (("none", 1), ("SimPO", 2), ("paper", 2.5), ("code", 3))
        },
        ([0.3, 0.7], [-1, 1]),
        X,
        {"p = 0.5": 0.3 * X, "p = 0.8": 0.3 * X + 1, "SimPO, p = 0.6": 0.4 + 0 * X},
    ),
    "rising_loss": lambda: draw.rising_loss(
        X, (X - 1) ** 2 + 2, (1, 2), (0.5, 2.25), 2.25 - 0.25 * 0.9 ** np.arange(40)
    ),
    "reach": lambda: draw.reach(
        {"paper": (0.3, 1.6), "code": (0.6, 3.2)},
        {n: v[2] for n, v in decay.SIMPO_TUNED.items()},
    ),
    "units": lambda: draw.units(
        X,
        {
            f"s = {s:g}": decay.Margin(scale=s).gamma(X).numpy()
            for s in (0.25, 0.5, 1, 2)
        },
        np.geomspace(0.5, 4, 9),
        {
            "RMiPO, code": np.linspace(0.1, 0.9, 9),
            "RMiPO, paper": np.linspace(0.1, 0.7, 9),
            "SimPO": np.linspace(0.1, 0.6, 9),
        },
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_readable(name):
    fig = FIGURES[name]()
    assert_readable(fig)
    plt.close(fig)


def test_tuned_table_names_what_cannot_be_reached():
    rows = draw.tuned_table(CODE, PAPER).splitlines()
    assert len(rows) == 2 + len(decay.SIMPO_TUNED)
    assert rows[3].endswith("| never quite | out of reach |") and rows[5].endswith(
        "| 0.17 | 1.65 |"
    )
    for beta, ratio, raw in decay.SIMPO_TUNED.values():
        assert beta * ratio == pytest.approx(
            raw, abs=0.051
        )  # the printed ratio is rounded


# ---- the figure with sliders ----

SETTINGS = [
    {"beta": 2.0, "low": 0.3, "high": 1.6, "scale": 1.0, "prior": 0.0},
    {"beta": 5.5, "low": 0.8, "high": 0.8, "scale": 0.3, "prior": 1.2},
    {"beta": 0.7, "low": 0.0, "high": 3.2, "scale": 2.5, "prior": -0.9},
]


@pytest.mark.parametrize("of", SETTINGS)
@pytest.mark.parametrize("delta", [-2.0, 0.0, 0.7, 4.0])
def test_the_text_that_the_browser_runs_is_the_loss(of, delta):
    """FORMULAS are JavaScript and Python at once: evaluated here against gamma_decay and the slopes of rmipo and simpo."""
    names = (
        {"exp": exp, "max": max, "__builtins__": {}}
        | of
        | {"delta": delta, "pmi": delta - of["prior"], "ratio": 0.5}
    )
    bounds = {"gamma_min": of["low"], "gamma_max": of["high"], "scale": of["scale"]}
    names["gamma"] = eval(sliders.FORMULAS["gamma"], names)
    assert names["gamma"] == pytest.approx(
        float(losses.gamma_decay(T(names["pmi"]), **bounds))
    )
    d, zero, pmi = T([delta]).requires_grad_(), T([0.0]), T([names["pmi"]])
    for name, loss in {
        "code": lambda: losses.rmipo(d, zero, pmi, beta=of["beta"], **bounds),
        "paper": lambda: losses.rmipo(
            d, zero, pmi, beta=of["beta"], convention="paper", **bounds
        ),
        "simpo": lambda: losses.simpo(d, zero, beta=of["beta"], gamma=of["beta"] * 0.5),
    }.items():
        (slope,) = torch.autograd.grad(loss().sum(), d)
        assert eval(sliders.FORMULAS[name], names) == pytest.approx(
            float(-slope / of["beta"]), abs=1e-12
        )


def test_sliders_are_labelled_and_need_nothing():
    page = BeautifulSoup(sliders.page("here", beta=12.0), "html.parser")
    inputs = page.find_all("input")
    assert [i["name"] for i in inputs] == [key for key, *_ in sliders.SLIDERS] and {
        i["type"] for i in inputs
    } == {"range"}
    assert {label["for"] for label in page.find_all("label")} == {
        i["id"] for i in inputs
    }
    assert (
        float(inputs[0]["max"]) == float(inputs[0]["value"]) == 12
    )  # beyond the slider's end: it moves
    assert (
        page.find(class_="controls").has_attr("hidden") and page.noscript
    )  # a picture where no script runs
    assert all(
        len(svg["aria-label"].split()) > 5 for svg in page.find_all("svg", role="img")
    )
    assert all(path["d"].startswith("M32.00,") for path in page.find_all("path"))
    assert not re.search(r"https?:|src=|@import|@[A-Z]+@|url\(", str(page))
    ids = [node["id"] for node in page.find_all(id=True)]
    assert len(ids) == len(set(ids)) and all(i.startswith("here") for i in ids)


def test_the_picture_without_script_is_drawn_from_the_losses():
    page = BeautifulSoup(sliders.page("here"), "html.parser")
    d = page.find("path", {"data-curve": "code"})["d"]
    assert len(d.split("L")) == sliders.POINTS + 1
    x, y = (
        float(v) for v in d[1:].split("L")[40].split(",")
    )  # delta = -2 + 6 * 40/120 = 0
    assert x == pytest.approx(32 + 256 / 3, abs=0.01)
    assert y == pytest.approx(170 - 160 * float(CODE.weight(0, 0)), abs=0.01)
    cells = {cell["data-value"]: cell.text for cell in page.find_all("td")}
    assert (
        cells["code 1"] == "0.39"
        and cells["simpo half"] == "0.50"
        and cells["code half"] == "0.85"
    )


@pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
@pytest.mark.parametrize("of", SETTINGS)
def test_the_browser_draws_what_python_computes(of, tmp_path):
    """Move the sliders in a real browser; every curve and every number must be those of Python."""
    move = "".join(
        f'document.getElementById("here-{key}").value = {value};'
        for key, value in of.items()
    )
    file = tmp_path / "page.html"
    file.write_text(
        f'<meta charset="utf-8">{sliders.page("here")}<script>{move}'
        'document.getElementById("here-beta").dispatchEvent(new Event("input"));</script>',
        encoding="utf-8",
    )
    dom = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}/profile",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    page, expected = BeautifulSoup(dom, "html.parser"), sliders.picture(of, 0.5)
    assert not page.find(class_="controls").has_attr("hidden")
    for path in page.find_all("path"):
        got, want = (
            [float(v) for v in re.findall(r"[-\d.]+", d)]
            for d in (path["d"], expected.paths[path["data-curve"]])
        )
        assert_allclose(got, want, atol=0.011)
    for cell in page.find_all("td"):
        name, where = cell["data-value"].split()
        columns = [*map(str, sliders.SAMPLES), "half"]
        want = expected.weights[name][columns.index(where)]
        assert float(cell.text.replace("−", "-")) == pytest.approx(want, abs=0.0051)
