"""Figures of chapters 4, 5 and 7: the small world, its pairs, how well replies fit."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    NORMAL,
    ORANGE,
    PALETTE,
    WIDE,
    Seeds,
    Values,
    arm_colour,
    arm_marker,
    arm_panels,
    edge_text,
    end_labels,
    reference_line,
    settled,
    spread,
    strip_points,
    subplots,
)
from mipo_study.methods import label

_TINTS = ("#0072B2", "#4B9FCB", "#96C8E2", "#D3E8F3")  # blue, from common to rare


def people_prior(attributes: Mapping[str, Mapping[str, float]]) -> Figure:
    """How the population is made up: one bar per attribute, cut into prior shares.

    Parameters
    ----------
    attributes : dict
        {attribute: {value: probability}}; each adds up to 1.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where shares do not add up.
    """
    fig, ax = subplots(size=(6.5, 0.8 + 0.42 * len(attributes)))
    for row, (name, prior) in enumerate(attributes.items()):
        total = sum(prior.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"attribute {name!r}: shares add up to {total:g}, not 1")
        left = 0.0
        for k, (value, p) in enumerate(prior.items()):
            look = {"color": _TINTS[k % 4], "edgecolor": "white", "height": 0.82}
            ax.barh(row, p, left=left, **look)
            ax.text(
                left + p / 2,
                row,
                f"{value}\n{100 * p:.0f} %",
                ha="center",
                va="center",
                fontsize=9,
                linespacing=1.05,
                color="white" if k % 4 == 0 else "black",
            )
            left += p
    ax.set_yticks(range(len(attributes)), attributes)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of people")
    ax.grid(visible=False)
    return fig


def task_information(
    information: Mapping[str, float], *, ceiling: tuple[float, str] | None = None
) -> Figure:
    """How much a reply to each task tells about the person, largest on top.

    Parameters
    ----------
    information : dict
        {task: I(Y; C | X = task)}, nats.
    ceiling : (float, str), optional
        Nats and their name, such as what one pair can certify.

    Returns
    -------
    Figure
    """
    order = sorted(information, key=lambda task: information[task], reverse=True)
    fig, ax = subplots(size=(6.5, 1.2 + 0.32 * len(order)))
    ax.barh(order, [information[t] for t in order], color=BLUE, height=0.66)
    for row, task in enumerate(order):
        ax.annotate(
            f"{information[task]:.2f}",
            (information[task], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.set_xlabel("I(Y; C | X = task) (nats per reply)")
    if ceiling:
        reference_line(ax, *ceiling, axis="x", at=0.0)
    return fig


def base_vs_exact(
    exact: np.ndarray,
    model: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    unit: str = "log p(reply) (nats)",
    most: int = 1500,
) -> Figure:
    """The model's log-probabilities, or of slots, against the exact ones.

    Parameters
    ----------
    exact, model : array_like, shape (N,)
        Equal on the diagonal.
    groups : sequence of str, length N, optional
        Such as tasks, one colour each.
    unit : str
        What both are.
    most : int
        Points that are drawn, evenly thinned.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        For shapes that differ.
    """
    exact, model = np.asarray(exact, float), np.asarray(model, float)
    if exact.shape != model.shape or exact.ndim != 1 or not len(exact):
        raise ValueError(
            f"exact has shape {exact.shape}, model {model.shape}; expected the same "
            "(N,) with N >= 1"
        )
    steps = np.linspace(0, len(exact) - 1, min(most, len(exact)))
    rows = np.unique(steps.astype(int))
    names = np.asarray(groups)[rows] if groups is not None else np.full(len(rows), "")
    fig, ax = subplots(size=(6.5, 4.2))
    for k, name in enumerate(dict.fromkeys(names.tolist())):
        mine = rows[names == name]
        ax.scatter(
            exact[mine],
            model[mine],
            s=14,
            alpha=0.55,
            lw=0,
            color=PALETTE[k % len(PALETTE)],
            label=name,
        )
    shown = np.concatenate([exact[rows], model[rows]])
    low, high = shown.min(), shown.max()
    ax.plot([low, high], [low, high], color=BLACK, lw=1.2, ls="--", zorder=1)
    ax.annotate(
        "equal",
        (high, high),
        xytext=(-6, -1),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9,
    )
    ax.set_xlabel(f"exact {unit}")
    ax.set_ylabel(f"model's {unit}")
    if groups is not None:
        ax.legend(
            loc="upper left", markerscale=1.6, handletextpad=0.2, labelspacing=0.3
        )
    return fig


def training_loss(losses: np.ndarray, floor: float, *, width: int = 10) -> Figure:
    """Loss of base models over their training, and the lowest there is.

    Parameters
    ----------
    losses : array_like, shape (S, steps)
        Nats per token, a line per model.
    floor : float
        Nats per token.
    width : int
        Steps over which a line is smoothed.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=WIDE)
    width = min(width, np.shape(losses)[1])
    window = np.full(width, 1 / width)
    for curve in losses:
        ax.plot(np.convolve(curve, window, "valid"), color=BLUE, lw=1)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss (nats per token)")
    ax.set_ylim(0, 2.5)
    reference_line(ax, floor, "entropy of the world", above=False)
    return fig


def pair_differences(
    shares: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str = "share of pairs whose two replies differ in the slot",
) -> Figure:
    """Which slots tell chosen from rejected: one row per slot.

    Parameters
    ----------
    shares : dict
        {kind of negative: {slot: share of pairs, 0 to 1}}; all kinds name the same
        slots.
    xlabel : str
        Title of the axis.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where two kinds have other slots.
    """
    kinds = list(shares)
    slots = list(shares[kinds[0]])
    for kind in kinds:
        if list(shares[kind]) != slots:
            raise ValueError(
                f"{kind!r} has slots {list(shares[kind])}; expected {slots}"
            )
    fig, ax = subplots(size=(6.5, 1.5 + 0.26 * len(slots)))
    for k, kind in enumerate(kinds):
        ax.scatter(
            [shares[kind][s] for s in slots],
            range(len(slots)),
            s=46,
            color=PALETTE[k],
            marker="oDs^v"[k % 5],
            label=kind.replace("_", " "),
            edgecolor="white",
            lw=0.6,
            zorder=3,
        )
    values = np.array([[shares[k][s] for k in kinds] for s in slots])
    low, high = values.min(1), values.max(1)
    ax.hlines(range(len(slots)), low, high, color=LIGHT, lw=1.2, zorder=1)
    ax.set_yticks(range(len(slots)), slots)
    ax.set_ylim(len(slots) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    fig.legend(loc="outside upper center", ncols=min(len(kinds), 4), handletextpad=0.2)
    return fig


def pmi_histogram(
    pmi: Mapping[str, Sequence[float] | np.ndarray],
    *,
    bins: int = 40,
    unit: str = "PMI of reply and person (nats)",
) -> Figure:
    """Distribution of PMI, such as that of chosen and of rejected replies.

    Parameters
    ----------
    pmi : dict
        {label: PMI, shape (N,)}, nats; dotted lines are the means.
    bins : int
        Of the histogram.
    unit : str
        Title of the axis.

    Returns
    -------
    Figure
    """
    rows = {name: np.asarray(values, float) for name, values in pmi.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), bins)
    fig, ax = subplots(size=NORMAL)
    for k, (name, values) in enumerate(rows.items()):
        colour, mean = PALETTE[k], values.mean()
        each = np.full(len(values), 1 / len(values))
        text = f"{name}: mean {mean:.2f}".replace("-", "\N{MINUS SIGN}")
        filled = {"histtype": "stepfilled", "alpha": 0.25}
        line = {"histtype": "step", "lw": 1.6, "label": text}
        ax.hist(values, edges, weights=each, color=colour, **filled)
        ax.hist(values, edges, weights=each, color=colour, **line)
        ax.axvline(mean, color=colour, ls=":", lw=1.4)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel(unit)
    ax.set_ylabel("share of replies")
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=min(len(pmi), 3))
    return fig


# ---- chapter 7 ----


def gain_vs_information(
    information: Mapping[str, float],
    gains: Mapping[str, Values],
    *,
    optimum: Mapping[str, float] | None = None,
    ylabel: str = "gain in adherence (share of slots)",
) -> Figure:
    """Gain of each task against the information it carries about the person.

    Parameters
    ----------
    information : dict
        {task: nats}.
    gains : dict
        {arm: {task: one number, or one per seed}}, with a least-squares line each.
    optimum : dict, optional
        {task: exact gain of the optimum}.
    ylabel : str
        Title of the axis.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.9))
    x = np.array(list(information.values()), float)
    ends = []
    for k, (arm, by_task) in enumerate(gains.items()):
        colour, marker = arm_colour(arm, k), arm_marker(arm)
        means = []
        for task, nats in information.items():
            seeds = by_task[task]
            mean, _, _ = strip_points(
                ax, nats, seeds, colour=colour, marker=marker, width=0
            )
            means.append(mean)
        ends.append(_fit_line(ax, x, np.array(means), label(arm), colour))
    if optimum:
        y = np.array([optimum[t] for t in information])
        ax.scatter(x, y, s=70, marker="*", color=BLACK, zorder=4)
        ends.append(_fit_line(ax, x, y, label("optimum"), BLACK))
    reference_line(ax, 0.0)
    _task_names(ax, information)
    ax.set_xlabel("I(Y; C | X = task) (nats per reply)")
    ax.set_ylabel(ylabel)
    end_labels(ax, ends)
    return fig


def _fit_line(
    ax: Axes, x: np.ndarray, y: np.ndarray, name: str, colour: str
) -> tuple[float, float, str, str]:
    """A least-squares line; its end, as `end_labels` takes it."""
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max() + 0.04 * np.ptp(x)])
    ax.plot(ends, intercept + slope * ends, color=colour, lw=1, alpha=0.7, zorder=1)
    return ends[1], intercept + slope * ends[1], name, colour


def _task_names(ax: Axes, information: Mapping[str, float]) -> None:
    """Task names above the axes, apart where tasks carry nearly the same nats."""
    x = np.array(list(information.values()), float)
    dpi = settled(ax).dpi
    points = ax.transData.transform(np.stack([x, 0 * x], 1))[:, 0] * 72 / dpi
    shifts = spread(points, 21) - points  # slanted letters need about two line heights
    for name, nats, dx in zip(information, x, shifts, strict=True):
        ax.axvline(nats, color=LIGHT, lw=0.8, zorder=0)
        ax.annotate(
            name,
            (nats, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(dx, 3),
            textcoords="offset points",
            rotation=35,
            ha="left",
            va="bottom",
            fontsize=9,
            color=GREY,
        )


def win_tie_loss(
    rates: Mapping[str, Mapping[str, float]],
    *,
    title: str = "against the base model's reply to the same person",
) -> Figure:
    """Strict wins, ties and losses; at the right what the MIPO paper calls a win.

    That is a win or a tie.

    Parameters
    ----------
    rates : dict
        {arm: {"win", "tie" and "loss": share}}, each adding up to 1.
    title : str
        Against what.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where shares do not add up.
    """
    fig, ax = subplots(size=(6.5, 1.4 + 0.42 * len(rates)))
    parts = (
        ("win", BLUE, "white"),
        ("tie", "#DDDDDD", "black"),
        ("loss", ORANGE, "black"),
    )
    for row, (arm, share) in enumerate(rates.items()):
        total = share["win"] + share["tie"] + share["loss"]
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"arm {arm!r}: win, tie and loss add up to {total:g}, not 1"
            )
        left = 0.0
        for part, colour, text in parts:
            ax.barh(
                row,
                share[part],
                left=left,
                color=colour,
                edgecolor="white",
                height=0.72,
                label=part if row == 0 else None,
            )
            if share[part] >= 0.07:
                ax.text(
                    left + share[part] / 2,
                    row,
                    f"{100 * share[part]:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=text,
                )
            left += share[part]
        ax.annotate(
            f"{100 * (share['win'] + share['tie']):.0f} %",
            (1, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.annotate(
        "win or\ntie",
        (1, 1),
        xycoords="axes fraction",
        xytext=(8, 2),
        textcoords="offset points",
        fontsize=9,
        va="bottom",
    )
    ax.set_yticks(range(len(rates)), [label(a) for a in rates])
    ax.set_ylim(len(rates) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.grid(visible=False)
    ax.set_xlabel("share of replies, " + title)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return fig


def robustness(
    adherence: Mapping[str, Values],
    *,
    exact: Mapping[str, float] | None = None,
    ylabel: str = "adherence (share of slots)",
) -> Figure:
    """Adherence to the true person, by kind of context; arms side by side.

    Parameters
    ----------
    adherence : dict
        {kind of context: {arm: one number, or one per seed}}.
    exact : dict, optional
        {kind: level}, short black lines.
    ylabel : str
        Title of the axis.

    Returns
    -------
    Figure
    """
    kinds = list(adherence)
    arms = list(adherence[kinds[0]])
    fig, ax = subplots(size=NORMAL)
    step = 0.7 / max(len(arms), 1)
    for i, kind in enumerate(kinds):
        for k, arm in enumerate(arms):
            strip_points(
                ax,
                i + step * (k - (len(arms) - 1) / 2),
                adherence[kind][arm],
                colour=arm_colour(arm, k),
                marker=arm_marker(arm),
                width=step * 0.5,
                label=label(arm) if i == 0 else None,
            )
        if exact:
            ax.hlines(
                exact[kind],
                i - 0.4,
                i + 0.4,
                color=BLACK,
                lw=1.4,
                label="exact world" if i == 0 else None,
            )
    ax.set_xticks(range(len(kinds)), kinds)
    ax.set_xlim(-0.5, len(kinds) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("context given to the model")
    ax.set_ylabel(ylabel)
    fig.legend(
        loc="outside upper center", ncols=5, handletextpad=0.3, columnspacing=1.2
    )
    return fig


def over_personalisation(
    shares: Mapping[str, Values], *, chance: Mapping[str, float] | None = None
) -> Figure:
    """How often replies name an attribute that has nothing to do with the task.

    Parameters
    ----------
    shares : dict
        {attribute: {arm: share of replies naming the person's own value, one per
        seed}}, one panel each.
    chance : dict, optional
        {attribute: share where nothing depends on the person}, dashed.

    Returns
    -------
    Figure
    """
    title = {a: f"names own {a} (share)" for a in shares}
    reference = {title[a]: (v, "exact world") for a, v in (chance or {}).items()}
    panels = {title[a]: v for a, v in shares.items()}
    return arm_panels(panels, reference=reference, digits=dict.fromkeys(panels, 3))


def length_distributions(
    lengths: Mapping[str, Seeds], *, unit: str = "length of reply (tokens)"
) -> Figure:
    """Lengths per arm: thin bar 5 to 95 %, thick bar 25 to 75 %, dot the mean.

    Parameters
    ----------
    lengths : dict
        {arm: tokens, shape (N,)}.
    unit : str
        Title of the axis.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 1.2 + 0.34 * len(lengths)))
    for row, (arm, values) in enumerate(lengths.items()):
        colour, values = arm_colour(arm, row), np.asarray(values, float)
        q = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
        ax.hlines(row, q[0], q[3], color=colour, lw=1.4)
        ax.hlines(row, q[1], q[2], color=colour, lw=7, alpha=0.45)
        marker = arm_marker(arm)
        ax.scatter(
            values.mean(),
            row,
            s=44,
            color=colour,
            marker=marker,
            edgecolor="white",
            zorder=4,
        )
        edge_text(ax, row, f"{values.mean():.1f}", colour)
    ax.set_yticks(range(len(lengths)), [label(a) for a in lengths])
    ax.set_ylim(len(lengths) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(unit)
    return fig
