"""The figure of chapter 3 with sliders: inline SVG drawn here, redrawn by a script in the page; it loads nothing."""

from collections.abc import Iterable
from html import escape

import numpy as np
import torch

from mipo.theory.margin import Margin
from mipo_study.figures.style import BLUE, VERMILLION

# The same text is run by the browser and, in the tests, by Python: what the reader moves is what was tested.
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
POINTS, LEFT, RIGHT, TOP, BOTTOM = (
    120,
    32,
    288,
    10,
    170,
)  # steps of a curve; the frame in a box of 300 by 212
PANELS = {"margin": ((-1, 4), (0, 3.2)), "weight": ((-2, 4), (0, 1))}
CURVES = (
    ("code", "RMiPO, code: β·(Δ − γ)", BLUE, "none"),
    ("paper", "RMiPO, paper: β·Δ − γ", VERMILLION, "7 4"),
    ("simpo", "SimPO at γ/β = @RATIO@", "#555555", "2 4"),
)
SAMPLES = (-1, 0, 1, 2)


def svg_path(panel: str, values: Iterable[float]) -> str:
    """A curve as the d of an SVG path: values (POINTS+1,) at equal steps over the panel's x range."""
    (_, _), (low, high) = PANELS[panel]
    x = np.linspace(LEFT, RIGHT, POINTS + 1)
    y = BOTTOM - (np.asarray(values, float) - low) / (high - low) * (BOTTOM - TOP)
    return "M" + "L".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))


def drawn(settings: dict, ratio: float) -> dict:
    """What the figure shows at these slider values: {path name: d, ("code", Δ): weight, ("code", "half"): Δ at w = 1/2}."""
    of = {key: settings[key] for key in ("beta", "scale")} | {
        "gamma_min": settings["low"],
        "gamma_max": settings["high"],
    }
    margins = {
        "code": Margin(**of),
        "paper": Margin(**of, convention="paper"),
        "simpo": Margin(beta=settings["beta"], gamma_min=ratio, gamma_max=ratio),
    }
    pmi, delta = (
        torch.linspace(*PANELS[name][0], POINTS + 1, dtype=torch.float64)
        for name in PANELS
    )
    out = {"gamma": svg_path("margin", margins["code"].gamma(pmi))}
    for name, margin in margins.items():
        out[name] = svg_path("weight", margin.weight(delta, delta - settings["prior"]))
        out |= {
            (name, d): float(margin.weight(d, d - settings["prior"])) for d in SAMPLES
        }
        out[name, "half"] = margin.centre(settings["prior"])
    return out


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
    (x0, x1), (y0, y1) = PANELS[panel]
    across = [(t, LEFT + (t - x0) / (x1 - x0) * (RIGHT - LEFT)) for t in x_ticks]
    up = [(t, BOTTOM - (t - y0) / (y1 - y0) * (BOTTOM - TOP)) for t in y_ticks]
    lines = [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>' for _, x in across
    ]
    lines += [
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for _, y in up
    ]
    texts = [
        f'<text x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="middle">{f"{t:g}".replace("-", "−")}</text>'
        for t, x in across
    ]
    texts += [
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t, y in up
    ]
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 300 212" role="img" aria-label="{escape(alt)}">'
        f'<g stroke="#E0E0E0">{"".join(lines)}</g><g>{"".join(texts)}'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 36}" text-anchor="middle">{x_label}</text></g>'
        f'<g fill="none" stroke-width="2.4">{curves}</g></svg></figure>'
    )


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
    """HTML of the margin and its weight with five sliders; a picture of these settings where no script runs.

    name  the id of the element, unique on its page        ratio  SimPO's γ/β, the curve to compare with
    A setting beyond the end of its slider moves that end.
    """
    start = {
        "beta": beta,
        "low": gamma_min,
        "high": gamma_max,
        "scale": scale,
        "prior": prior_gap,
    }
    shown = drawn(start, ratio)
    controls = "".join(
        f'<label for="{name}-{key}">{text}</label><input id="{name}-{key}" name="{key}" type="range" '
        f'min="{min(low, start[key]):g}" max="{max(high, start[key]):g}" step="{step}" value="{start[key]:g}">'
        f'<output for="{name}-{key}">{start[key]:.2f}</output>'
        for key, text, low, high, step in SLIDERS
    )
    margin = _frame(
        "margin",
        "Δpmi, nats per token",
        "Margin γ",
        range(-1, 5),
        range(4),
        "The margin is flat at gamma max up to zero and then falls towards gamma min.",
        f'<path data-curve="gamma" stroke="{BLUE}" d="{shown["gamma"]}"/>',
    )
    weight = _frame(
        "weight",
        "Δ, nats per token (Δpmi = Δ − Δ₀)",
        "Weight w = 1 − σ of a pair",
        range(-2, 5),
        (0, 0.5, 1),
        "Three falling curves of the weight: code, paper and SimPO.",
        "".join(
            f'<path data-curve="{key}" stroke="{colour}" stroke-dasharray="{dash}" d="{shown[key]}"/>'
            for key, _, colour, dash in CURVES
        ),
    )
    keys = "".join(
        f'<li><svg viewBox="0 0 30 8" aria-hidden="true"><line x1="0" x2="30" y1="4" y2="4" stroke="{colour}" '
        f'stroke-width="3" stroke-dasharray="{dash}"/></svg> {text}</li>'
        for _, text, colour, dash in CURVES
    )
    rows = "".join(
        f'<tr><th scope="row">{row}</th>'
        + "".join(
            f'<td data-value="{key} {d}">{_two(shown[key, d])}</td>'
            for d in (*SAMPLES, "half")
        )
        + "</tr>"
        for row, (key, *_) in zip(("code", "paper", "SimPO"), CURVES, strict=True)
    )
    heads = "".join(f'<th scope="col">{str(d).replace("-", "−")}</th>' for d in SAMPLES)
    html = (
        f'<div class="decay-sliders" id="{name}">{STYLE}<div class="controls" hidden>{controls}'
        '<button type="button">Back to the start</button></div><noscript><p>Where scripts run, there are sliders here. '
        f'The picture shows the settings of this run.</p></noscript><div class="panels">{margin}{weight}</div>'
        f'<ul>{keys}</ul><table><thead><tr><th scope="col">w at Δ =</th>{heads}'
        f'<th scope="col">w = ½ at Δ =</th></tr></thead><tbody>{rows}</tbody></table><script>{SCRIPT}</script></div>'
    )
    words = {
        "ROOT": f'"{name}"',
        "POINTS": POINTS,
        "LEFT": LEFT,
        "RIGHT": RIGHT,
        "TOP": TOP,
        "BOTTOM": BOTTOM,
        "RATIO": f"{ratio:g}",
        "MARGIN_X0": PANELS["margin"][0][0],
        "MARGIN_X1": PANELS["margin"][0][1],
        "MARGIN_Y": PANELS["margin"][1][1],
        "WEIGHT_X0": PANELS["weight"][0][0],
        "WEIGHT_X1": PANELS["weight"][0][1],
        "WEIGHT_Y": PANELS["weight"][1][1],
    } | {f"FORMULA_{key}": text for key, text in FORMULAS.items()}
    for word, value in words.items():
        html = html.replace(f"@{word}@", str(value))
    return html


STYLE = """<style>
.decay-sliders { background: #fff; color: #222; border: 1px solid #ccc; border-radius: 6px; padding: 0.8rem;
  font-size: 0.95rem; max-width: 100%; box-sizing: border-box; }
.decay-sliders .controls:not([hidden]) { display: grid; grid-template-columns: minmax(7rem, 20rem) minmax(0, 1fr) 3rem;
  gap: 0.3rem 0.7rem; align-items: center; margin-bottom: 0.6rem; }
.decay-sliders label { margin: 0; }
.decay-sliders input { width: 100%; min-width: 0; accent-color: #0072B2; }
.decay-sliders output { font-variant-numeric: tabular-nums; text-align: right; }
.decay-sliders button { grid-column: 1 / -1; justify-self: start; font: inherit; padding: 0.2rem 0.7rem; color: #222;
  background: #f2f2f2; border: 1px solid #888; border-radius: 4px; cursor: pointer; }
.decay-sliders .panels { display: flex; flex-wrap: wrap; gap: 0.6rem; }
.decay-sliders .panels figure { flex: 1 1 15rem; min-width: 0; max-width: 30rem; margin: 0; padding: 0; }
.decay-sliders .panels figcaption { font-weight: 600; color: #222; text-align: left; margin: 0; }
.decay-sliders figure svg { width: 100%; height: auto; display: block; font-size: 13px; fill: #222; overflow: hidden; }
.decay-sliders ul { list-style: none; margin: 0.4rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
.decay-sliders li { margin: 0; white-space: nowrap; }
.decay-sliders li svg { width: 30px; height: 8px; vertical-align: middle; }
.decay-sliders table, .decay-sliders tr, .decay-sliders tbody tr:nth-child(odd), .decay-sliders th, .decay-sliders td {
  background: #fff; color: #222; }
.decay-sliders table { font-variant-numeric: tabular-nums; border-collapse: collapse; margin: 0.5rem 0 0; }
.decay-sliders th, .decay-sliders td { padding: 0.15rem 0.45rem; text-align: right; font-weight: 400; }
.decay-sliders th:first-child { text-align: left; padding-left: 0; }
.decay-sliders thead th { border-bottom: 1px solid #888; vertical-align: bottom; }
@media (max-width: 36rem) {
  .decay-sliders .controls:not([hidden]) { grid-template-columns: minmax(0, 1fr) 3rem; gap: 0 0.7rem; }
  .decay-sliders label { grid-column: 1 / -1; }
  .decay-sliders input { height: 1.8rem; }
}
</style>"""

SCRIPT = """(() => {
  const root = document.getElementById(@ROOT@), {exp, max} = Math, ratio = @RATIO@;
  const inputs = Object.fromEntries([...root.querySelectorAll("input")].map(input => [input.name, input]));
  const margin = (pmi, low, high, scale) => @FORMULA_gamma@;
  const weight = {
    code: (delta, gamma, beta) => @FORMULA_code@,
    paper: (delta, gamma, beta) => @FORMULA_paper@,
    simpo: (delta, gamma, beta) => @FORMULA_simpo@,
  };
  const path = (x0, x1, top, f) => "M" + Array.from({length: @POINTS@ + 1}, (_, i) =>
    (@LEFT@ + (@RIGHT@ - @LEFT@) * i / @POINTS@).toFixed(2) + "," +
    (@BOTTOM@ - f(x0 + (x1 - x0) * i / @POINTS@) / top * (@BOTTOM@ - @TOP@)).toFixed(2)).join("L");
  const curve = name => root.querySelector(`[data-curve="${name}"]`);
  function draw() {
    const [beta, low, high, scale, prior] = ["beta", "low", "high", "scale", "prior"].map(n => Number(inputs[n].value));
    curve("gamma").setAttribute("d", path(@MARGIN_X0@, @MARGIN_X1@, @MARGIN_Y@, pmi => margin(pmi, low, high, scale)));
    for (const name in weight) {
      const at = delta => weight[name](delta, margin(delta - prior, low, high, scale), beta);
      curve(name).setAttribute("d", path(@WEIGHT_X0@, @WEIGHT_X1@, @WEIGHT_Y@, at));
      let a = -50, b = 50;
      for (let i = 0; i < 60; i++) { const c = (a + b) / 2; if (at(c) > 0.5) a = c; else b = c; }
      for (const cell of root.querySelectorAll(`[data-value^="${name} "]`)) {
        const where = cell.dataset.value.split(" ")[1];
        cell.textContent = (where === "half" ? a : at(Number(where))).toFixed(2).replace("-", "−");
      }
    }
    for (const input of Object.values(inputs)) input.nextElementSibling.textContent = Number(input.value).toFixed(2);
  }
  for (const input of Object.values(inputs)) input.addEventListener("input", () => {
    const low = Number(inputs.low.value), high = Number(inputs.high.value);
    if (low > high && input === inputs.low) inputs.high.value = low;
    if (low > high && input === inputs.high) inputs.low.value = high;
    draw();
  });
  root.querySelector("button").addEventListener("click", () => {
    for (const input of Object.values(inputs)) input.value = input.defaultValue;
    draw();
  });
  root.querySelector(".controls").hidden = false;
  draw();
})();"""
