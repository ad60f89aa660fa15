"""The figure of chapter 3 with sliders: SVG in the page, redrawn by a script there.

It loads nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html import escape

import numpy as np
import torch
from numpy.typing import ArrayLike

from mipo.theory.margin import Margin
from mipo_study.figures.style import BLUE, VERMILLION

# The same text is run by the browser and, in the tests, by Python: what the reader
# moves is what was tested.
FORMULAS = {
    "gamma": "low + (high - low) * exp(-max(0, pmi) / scale)",
    "code": "1 / (1 + exp(beta * (delta - gamma)))",
    "paper": "1 / (1 + exp(beta * delta - gamma))",
    "simpo": "1 / (1 + exp(beta * (delta - ratio)))",
}
SLIDERS = (
    ("beta", "β, slope", 0.5, 10, 0.1),
    ("low", "γ<sub>min</sub>", 0, 3.2, 0.05),
    ("high", "γ<sub>max</sub>", 0, 3.2, 0.05),
    ("scale", "scale, nats per token", 0.1, 4, 0.1),
    ("prior", "Δ₀, gap without the prompt, nats per token", -2, 2, 0.1),
)
POINTS = 120  # steps of a curve
LEFT, RIGHT, TOP, BOTTOM = 32, 288, 10, 170  # the frame, in a box of 300 by 212
PANELS = {"margin": ((-1, 4), (0, 3.2)), "weight": ((-2, 4), (0, 1))}
CURVES = (
    ("code", "RMiPO, code: β·(Δ − γ)", BLUE, "none"),
    ("paper", "RMiPO, paper: β·Δ − γ", VERMILLION, "7 4"),
    ("simpo", "SimPO at γ/β = @RATIO@", "#555555", "2 4"),
)
SAMPLES = (-1, 0, 1, 2)


def svg_path(panel: str, values: ArrayLike) -> str:
    """A curve as the d of an SVG path.

    Parameters
    ----------
    panel : str
        A key of `PANELS`.
    values : array_like, shape (POINTS + 1,)
        At equal steps over the panel's x range.

    Returns
    -------
    str
    """
    _, (low, high) = PANELS[panel]
    x = np.linspace(LEFT, RIGHT, POINTS + 1)
    y = BOTTOM - (np.asarray(values, float) - low) / (high - low) * (BOTTOM - TOP)
    return "M" + "L".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))


@dataclass(frozen=True)
class Picture:
    """What the figure shows at some slider values.

    Attributes
    ----------
    paths : dict
        {curve: the d of its path}.
    weights : dict
        {curve: the weight at each of `SAMPLES`, then the Δ at which it is 1/2}.
    """

    paths: dict[str, str]
    weights: dict[str, list[float]]


def picture(settings: Mapping[str, float], ratio: float) -> Picture:
    """What the figure shows.

    Parameters
    ----------
    settings : dict
        A value for each of `SLIDERS`.
    ratio : float
        SimPO's γ/β.

    Returns
    -------
    Picture
    """
    beta, prior = settings["beta"], settings["prior"]
    low, high, scale = settings["low"], settings["high"], settings["scale"]
    code = Margin(beta=beta, gamma_min=low, gamma_max=high, scale=scale)
    margins = {
        "code": code,
        "paper": replace(code, convention="paper"),
        "simpo": Margin(beta=beta, gamma_min=ratio, gamma_max=ratio),
    }
    pmi, delta = (
        torch.linspace(*ends, POINTS + 1, dtype=torch.float64)
        for ends, _ in PANELS.values()
    )
    paths = {"gamma": svg_path("margin", code.gamma(pmi))}
    weights = {}
    for name, margin in margins.items():
        paths[name] = svg_path("weight", margin.weight(delta, delta - prior))
        samples = [float(margin.weight(d, d - prior)) for d in SAMPLES]
        weights[name] = [*samples, margin.centre(prior)]
    return Picture(paths, weights)


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _frame(
    panel: str,
    x_label: str,
    title: str,
    x_ticks: Iterable[float],
    y_ticks: Iterable[float],
    alt: str,
    curves: str,
) -> str:
    """One panel: grid, ticks and curves."""
    (x0, x1), (y0, y1) = PANELS[panel]
    lines, texts = [], []
    for tick in x_ticks:
        x = LEFT + (tick - x0) / (x1 - x0) * (RIGHT - LEFT)
        text = f"{tick:g}".replace("-", "−")
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        place = f'x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="middle"'
        texts.append(f"<text {place}>{text}</text>")
    for tick in y_ticks:
        y = BOTTOM - (tick - y0) / (y1 - y0) * (BOTTOM - TOP)
        lines.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        place = f'x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end"'
        texts.append(f"<text {place}>{tick:g}</text>")
    place = f'x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 36}" text-anchor="middle"'
    texts.append(f"<text {place}>{x_label}</text>")
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 300 212" role="img" aria-label="{escape(alt)}">'
        f'<g stroke="#E0E0E0">{"".join(lines)}</g><g>{"".join(texts)}</g>'
        f'<g fill="none" stroke-width="2.4">{curves}</g></svg></figure>'
    )


def _slider(
    name: str, key: str, text: str, low: float, high: float, step: float, value: float
) -> str:
    """A slider with its label and its value; a value beyond an end moves that end."""
    ends = f'min="{min(low, value):g}" max="{max(high, value):g}" step="{step}"'
    return (
        f'<label for="{name}-{key}">{text}</label>'
        f'<input id="{name}-{key}" name="{key}" type="range" {ends} value="{value:g}">'
        f'<output for="{name}-{key}">{value:.2f}</output>'
    )


def _key(text: str, colour: str, dash: str) -> str:
    """A line of the legend."""
    stroke = f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"'
    return (
        '<li><svg viewBox="0 0 30 8" aria-hidden="true">'
        f'<line x1="0" x2="30" y1="4" y2="4" {stroke}/></svg> {text}</li>'
    )


def _row(head: str, curve: str, values: Iterable[float]) -> str:
    """A line of the table."""
    columns = zip((*SAMPLES, "half"), values, strict=True)
    cells = [f'<td data-value="{curve} {d}">{_two(value)}</td>' for d, value in columns]
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def page(
    name: str,
    *,
    beta: float = 2.0,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
    prior_gap: float = 0.0,
    ratio: float = 0.5,
) -> str:
    """The margin and its weight with five sliders; a picture where no script runs.

    Parameters
    ----------
    name : str
        The id of the element, unique on its page.
    beta, gamma_min, gamma_max, scale : float
        See `mipo.theory.margin.Margin`. A setting beyond the end of its slider moves
        that end.
    prior_gap : float
        Gap without the prompt, nats per token.
    ratio : float
        SimPO's γ/β, the curve to compare with.

    Returns
    -------
    str
        HTML.
    """
    start = {
        "beta": beta,
        "low": gamma_min,
        "high": gamma_max,
        "scale": scale,
        "prior": prior_gap,
    }
    shown = picture(start, ratio)
    sliders = [
        _slider(name, key, text, low, high, step, start[key])
        for key, text, low, high, step in SLIDERS
    ]
    margin = _frame(
        "margin",
        "Δpmi, nats per token",
        "Margin γ",
        range(-1, 5),
        range(4),
        "The margin is flat at gamma max up to zero and then falls towards gamma min.",
        f'<path data-curve="gamma" stroke="{BLUE}" d="{shown.paths["gamma"]}"/>',
    )
    curves = [
        f'<path data-curve="{key}" stroke="{colour}" stroke-dasharray="{dash}" '
        f'd="{shown.paths[key]}"/>'
        for key, _, colour, dash in CURVES
    ]
    weight = _frame(
        "weight",
        "Δ, nats per token (Δpmi = Δ − Δ₀)",
        "Weight w = 1 − σ of a pair",
        range(-2, 5),
        (0, 0.5, 1),
        "Three falling curves of the weight: code, paper and SimPO.",
        "".join(curves),
    )
    keys = [_key(text, colour, dash) for _, text, colour, dash in CURVES]
    names = {"code": "code", "paper": "paper", "SimPO": "simpo"}
    rows = [_row(head, key, shown.weights[key]) for head, key in names.items()]
    heads = [f'<th scope="col">{str(d).replace("-", "−")}</th>' for d in SAMPLES]
    html = (
        f'<div class="decay-sliders" id="{name}">{STYLE}'
        f'<div class="controls" hidden>{"".join(sliders)}'
        '<button type="button">Back to the start</button></div>'
        "<noscript><p>Where scripts run, there are sliders here. "
        "The picture shows the settings of this run.</p></noscript>"
        f'<div class="panels">{margin}{weight}</div><ul>{"".join(keys)}</ul>'
        f'<table><thead><tr><th scope="col">w at Δ =</th>{"".join(heads)}'
        '<th scope="col">w = ½ at Δ =</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><script>{SCRIPT}</script></div>"
    )
    return _filled(html, {"ROOT": f'"{name}"', "RATIO": f"{ratio:g}"})


def _filled(html: str, words: dict[str, str]) -> str:
    """The page with a value for each @WORD@ of its script."""
    (x0, x1), (_, y1) = PANELS["margin"]
    words |= {"MARGIN_X0": f"{x0}", "MARGIN_X1": f"{x1}", "MARGIN_Y": f"{y1}"}
    (x0, x1), (_, y1) = PANELS["weight"]
    words |= {"WEIGHT_X0": f"{x0}", "WEIGHT_X1": f"{x1}", "WEIGHT_Y": f"{y1}"}
    words |= {"LEFT": f"{LEFT}", "RIGHT": f"{RIGHT}", "TOP": f"{TOP}"}
    words |= {"BOTTOM": f"{BOTTOM}", "POINTS": f"{POINTS}"}
    words |= {f"FORMULA_{key}": text for key, text in FORMULAS.items()}
    for word, value in words.items():
        html = html.replace(f"@{word}@", value)
    return html


STYLE = """<style>
.decay-sliders { background: #fff; color: #222; border: 1px solid #ccc;
  border-radius: 6px; padding: 0.8rem; font-size: 0.95rem; max-width: 100%;
  box-sizing: border-box; }
.decay-sliders .controls:not([hidden]) { display: grid;
  grid-template-columns: minmax(7rem, 20rem) minmax(0, 1fr) 3rem;
  gap: 0.3rem 0.7rem; align-items: center; margin-bottom: 0.6rem; }
.decay-sliders label { margin: 0; }
.decay-sliders input { width: 100%; min-width: 0; accent-color: #0072B2; }
.decay-sliders output { font-variant-numeric: tabular-nums; text-align: right; }
.decay-sliders button { grid-column: 1 / -1; justify-self: start; font: inherit;
  padding: 0.2rem 0.7rem; color: #222; background: #f2f2f2; border: 1px solid #888;
  border-radius: 4px; cursor: pointer; }
.decay-sliders .panels { display: flex; flex-wrap: wrap; gap: 0.6rem; }
.decay-sliders .panels figure { flex: 1 1 15rem; min-width: 0; max-width: 30rem;
  margin: 0; padding: 0; }
.decay-sliders .panels figcaption { font-weight: 600; color: #222; text-align: left;
  margin: 0; }
.decay-sliders figure svg { width: 100%; height: auto; display: block;
  font-size: 13px; fill: #222; overflow: hidden; }
.decay-sliders ul { list-style: none; margin: 0.4rem 0; padding: 0; display: flex;
  flex-wrap: wrap; gap: 0 1.2rem; }
.decay-sliders li { margin: 0; white-space: nowrap; }
.decay-sliders li svg { width: 30px; height: 8px; vertical-align: middle; }
.decay-sliders table, .decay-sliders tr, .decay-sliders tbody tr:nth-child(odd),
.decay-sliders th, .decay-sliders td { background: #fff; color: #222; }
.decay-sliders table { font-variant-numeric: tabular-nums; border-collapse: collapse;
  margin: 0.5rem 0 0; }
.decay-sliders th, .decay-sliders td { padding: 0.15rem 0.45rem; text-align: right;
  font-weight: 400; }
.decay-sliders th:first-child { text-align: left; padding-left: 0; }
.decay-sliders thead th { border-bottom: 1px solid #888; vertical-align: bottom; }
@media (max-width: 36rem) {
  .decay-sliders .controls:not([hidden]) {
    grid-template-columns: minmax(0, 1fr) 3rem; gap: 0 0.7rem; }
  .decay-sliders label { grid-column: 1 / -1; }
  .decay-sliders input { height: 1.8rem; }
}
</style>"""

SCRIPT = """(() => {
  const root = document.getElementById(@ROOT@), {exp, max} = Math, ratio = @RATIO@;
  const sliders = [...root.querySelectorAll("input")];
  const inputs = Object.fromEntries(sliders.map(input => [input.name, input]));
  const margin = (pmi, low, high, scale) => @FORMULA_gamma@;
  const weight = {
    code: (delta, gamma, beta) => @FORMULA_code@,
    paper: (delta, gamma, beta) => @FORMULA_paper@,
    simpo: (delta, gamma, beta) => @FORMULA_simpo@,
  };
  const path = (x0, x1, top, f) => "M" + Array.from({length: @POINTS@ + 1}, (_, i) => {
    const share = i / @POINTS@;
    const x = @LEFT@ + (@RIGHT@ - @LEFT@) * share;
    const y = @BOTTOM@ - f(x0 + (x1 - x0) * share) / top * (@BOTTOM@ - @TOP@);
    return x.toFixed(2) + "," + y.toFixed(2);
  }).join("L");
  const curve = name => root.querySelector(`[data-curve="${name}"]`);
  function draw() {
    const [beta, low, high, scale, prior] =
      ["beta", "low", "high", "scale", "prior"].map(n => Number(inputs[n].value));
    const gamma = pmi => margin(pmi, low, high, scale);
    const d = path(@MARGIN_X0@, @MARGIN_X1@, @MARGIN_Y@, gamma);
    curve("gamma").setAttribute("d", d);
    for (const name in weight) {
      const at = delta => weight[name](delta, gamma(delta - prior), beta);
      const d = path(@WEIGHT_X0@, @WEIGHT_X1@, @WEIGHT_Y@, at);
      curve(name).setAttribute("d", d);
      let a = -50, b = 50;
      for (let i = 0; i < 60; i++) {
        const c = (a + b) / 2;
        if (at(c) > 0.5) a = c; else b = c;
      }
      for (const cell of root.querySelectorAll(`[data-value^="${name} "]`)) {
        const where = cell.dataset.value.split(" ")[1];
        const value = where === "half" ? a : at(Number(where));
        cell.textContent = value.toFixed(2).replace("-", "−");
      }
    }
    for (const input of sliders)
      input.nextElementSibling.textContent = Number(input.value).toFixed(2);
  }
  for (const input of sliders) input.addEventListener("input", () => {
    const low = Number(inputs.low.value), high = Number(inputs.high.value);
    if (low > high && input === inputs.low) inputs.high.value = low;
    if (low > high && input === inputs.high) inputs.low.value = high;
    draw();
  });
  root.querySelector("button").addEventListener("click", () => {
    for (const input of sliders) input.value = input.defaultValue;
    draw();
  });
  root.querySelector(".controls").hidden = false;
  draw();
})();"""
