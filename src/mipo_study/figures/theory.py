"""Figures of the theory chapters: tables, bounds, critics, optima.

Each function takes arrays and returns a Figure. Information and losses are in nats.
Shapes: X people, Y replies, S settings along an axis.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    NORMAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    end_labels,
    reference_line,
    strip_points,
    subplots,
)


def _numbers(
    ax: Axes, table: np.ndarray, fmt: str, limit: float, least: float = 0.0
) -> None:
    """The value in every cell of at least `least`, white where the cell is dark."""
    for (i, j), value in np.ndenumerate(table):
        if abs(value) >= least:
            ax.text(
                j,
                i,
                format(value, fmt).replace("-", "−"),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if abs(value) > limit else "black",
            )


def two_tables(
    p: np.ndarray, pmi: np.ndarray, people: Sequence[str], replies: Sequence[str]
) -> Figure:
    """Left the probabilities, right the PMI, one row per person.

    Parameters
    ----------
    p, pmi : ndarray, shape (X, Y)
        p(y|x), and PMI in nats.
    people, replies : sequence of str
        Names of rows and columns.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.5), sharey=True)
    top = np.abs(pmi).max()
    axes[0].imshow(p, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes[1].imshow(pmi, cmap="RdBu", vmin=-1.5 * top, vmax=1.5 * top, aspect="auto")
    _numbers(axes[0], p, ".2f", 0.6, least=0.015)
    _numbers(axes[1], pmi, ".1f", 0.99 * top)
    for ax, title in zip(axes, ("probability p(y|x)", "PMI, nats"), strict=True):
        ax.set(title=title, xlabel="reply", xticks=range(len(replies)))
        ax.set_xticklabels(replies, rotation=40, ha="right", rotation_mode="anchor")
        ax.grid(False)
    axes[0].set(yticks=range(len(people)), yticklabels=people)
    return fig


def ceiling(
    ns: Sequence[int], best: np.ndarray, random: np.ndarray, mi: float
) -> Figure:
    """InfoNCE against the number of candidates, below its ceiling log N.

    Parameters
    ----------
    ns : sequence of int, length S
        Candidates N.
    best : ndarray, shape (S,)
        At the optimal critic, nats.
    random : ndarray, shape (R, S)
        At R arbitrary critics, nats.
    mi : float
        I(X;Y), nats.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    ax.set_xscale("log", base=2)
    ax.plot(ns, np.log(ns), color=VERMILLION, ls="--")
    for row in random:
        ax.plot(ns, row, ".", color=GREY, alpha=0.35, ms=4, zorder=1)
    ax.plot(ns, best, "o-", color=BLUE)
    bottom = -0.25 * mi
    ax.set(
        xlabel="candidates N",
        ylabel="certified information, nats",
        ylim=(bottom, 1.7 * mi),
        xticks=ns,
        xticklabels=[str(n) for n in ns],
    )
    ax.minorticks_off()
    reference_line(ax, mi, f"I(X;Y) = {mi:.2f} nats", at=0.02)
    ax.annotate(
        "ceiling log N",
        (np.exp(1.45 * mi), 1.45 * mi),
        xytext=(10, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        color=VERMILLION,
        fontsize=9,
    )
    ax.annotate(
        "optimal\ncritic",
        ((ns[2] * ns[3]) ** 0.5, best[2:4].mean()),
        xytext=(6, -5),
        ha="center",
        va="top",
        textcoords="offset points",
        color=BLUE,
        fontsize=9,
    )
    ax.annotate(
        "each grey point: an arbitrary critic",
        (0.98, 0.03),
        xycoords="axes fraction",
        ha="right",
        color="#555555",
        fontsize=9,
    )
    return fig


def critics(pmi: np.ndarray, learned: Mapping[str, np.ndarray]) -> Figure:
    """Critics trained with N candidates against PMI, all centred per person.

    Parameters
    ----------
    pmi : ndarray, shape (X, Y)
        Nats.
    learned : dict
        {N: critic, shape (X, Y)}, nats.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    ends = np.array([pmi.min(), pmi.max()])
    ax.plot(ends, ends, color=GREY, lw=1.2, zorder=1)
    looks = zip(
        learned.items(),
        ("o", "s", "^", "D"),
        (BLUE, VERMILLION, GREEN, PURPLE),
        (90, 45, 14, 6),
        strict=False,
    )
    for (n, f), marker, colour, size in looks:
        ax.scatter(
            pmi,
            f,
            s=size,
            marker=marker,
            facecolors="none" if size > 20 else colour,
            edgecolors=colour,
            linewidths=1.1,
            label=f"trained with N = {n}",
        )
    ax.set(
        xlabel="PMI, centred per person, nats", ylabel="trained critic, centred, nats"
    )
    ax.legend(loc="upper left")
    return fig


def scaled_critics(
    scales: np.ndarray, bounds: Mapping[str, np.ndarray], jsd: np.ndarray, mi: float
) -> Figure:
    """Left the bounds, right the JSD objective, at the critic scale·PMI.

    Parameters
    ----------
    scales : ndarray, shape (S,)
        Of the critic.
    bounds : dict
        {name of a bound: its value, shape (S,)}, nats.
    jsd : ndarray, shape (S,)
        The JSD objective, nats.
    mi : float
        I(X;Y), nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), width_ratios=(1.5, 1))
    entries = []
    for (name, values), colour in zip(
        bounds.items(), (BLUE, VERMILLION, GREEN, PURPLE), strict=False
    ):
        axes[0].plot(scales, values, color=colour)
        visible = max(values[-1], -0.45 * mi)
        entries.append((scales[-1], visible, name, colour))
    axes[0].set(
        ylim=(-0.5 * mi, 1.25 * mi),
        xlim=(scales[0], scales[-1]),
        xlabel="scale s of the critic s·PMI",
        ylabel="bound, nats",
        title="bounds on I",
    )
    reference_line(axes[0], mi, f"I(X;Y) = {mi:.2f}", at=0.02)
    end_labels(axes[0], entries)
    axes[1].plot(scales, jsd, color=ORANGE)
    axes[1].set(
        xlabel="scale s of the critic",
        title="JSD objective, nats",
        xlim=(scales[0], scales[-1]),
    )
    reference_line(axes[1], 0, "never above 0", at=0.98, above=False)
    return fig


def estimates(sizes: np.ndarray, values: Mapping[str, np.ndarray], mi: float) -> Figure:
    """One panel per estimator: every seed a point, the mean a line.

    Parameters
    ----------
    sizes : ndarray, shape (S,)
        Pairs in the sample.
    values : dict
        {estimator: estimates, shape (S, seeds)}, nats.
    mi : float
        The truth, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(values), size=WIDE, sharey=True)
    for (name, v), ax, colour in zip(
        values.items(), axes, (BLUE, VERMILLION, GREEN), strict=True
    ):
        for i in range(len(sizes)):
            strip_points(ax, i, v[i], colour=colour, width=0.4)
        ax.plot(range(len(sizes)), v.mean(1), color=colour, lw=1)
        ax.set(title=name, xlabel="pairs", xticks=range(len(sizes)))
        ax.set_xticklabels([str(n) for n in sizes], rotation=45)
        ax.axhline(mi, color=GREY, ls="--", lw=1.2, zorder=1)
    axes[0].set_ylabel("estimate, nats")
    axes[-1].annotate(
        "truth",
        (0.98, mi),
        xycoords=axes[-1].get_yaxis_transform(),
        xytext=(0, 2),
        ha="right",
        textcoords="offset points",
        color="#555555",
        fontsize=9,
        va="bottom",
    )
    return fig


def fitted_critic(
    sizes: np.ndarray, values: np.ndarray, predicted: np.ndarray
) -> Figure:
    """DV maximised on the sample itself, where the truth is 0.

    Parameters
    ----------
    sizes : ndarray, shape (S,)
        Pairs in the sample.
    values : ndarray, shape (S, seeds)
        Estimates, nats.
    predicted : ndarray, shape (S,)
        What theory expects of them, nats.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=WIDE)
    for i in range(len(sizes)):
        strip_points(ax, i, values[i], colour=VERMILLION, width=0.3)
    ax.plot(range(len(sizes)), predicted, color=BLACK, ls=":", lw=1.4)
    ax.annotate(
        "(|X| − 1)(|Y| − 1) / 2n",
        (0.5, predicted[:2].mean()),
        xytext=(8, 4),
        textcoords="offset points",
        fontsize=9,
    )
    ax.set(
        xlabel="pairs n in the sample",
        ylabel="DV estimate, nats",
        xticks=range(len(sizes)),
        xticklabels=[str(n) for n in sizes],
    )
    ax.set_ylim(bottom=-0.06 * predicted.max())
    reference_line(ax, 0, "truth: I = 0", at=0.02)
    return fig


def loss_of_gap(
    h: np.ndarray, dpo: np.ndarray, infonce: np.ndarray, beta: float
) -> Figure:
    """DPO's loss against the gap, with log 2 less InfoNCE on top.

    Parameters
    ----------
    h : ndarray, shape (S,)
        Gap of the log-ratios, nats.
    dpo, infonce : ndarray, shape (S,)
        DPO's loss and log 2 less InfoNCE with N = 2, nats.
    beta : float
        Decides the slope at the start.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=WIDE)
    ax.plot(h, dpo, color=BLUE, label="DPO")
    ax.plot(
        h[::8],
        infonce[::8],
        "o",
        color=ORANGE,
        mfc="none",
        ms=7,
        label="log 2 − InfoNCE, N = 2",
    )
    near = np.array([-2.2, 2.2])
    ax.plot(near, np.log(2) - beta / 2 * near, color=GREY, ls="--", lw=1.2)
    ax.plot(0, np.log(2), "o", color=BLACK, ms=7, zorder=5)
    ax.annotate(
        "start of every pair: log 2,\nslope −β/2",
        (0, np.log(2)),
        xytext=(12, 12),
        textcoords="offset points",
        fontsize=9,
    )
    ax.set(xlabel="gap h of the log-ratios, nats", ylabel="loss, nats")
    ax.legend(loc="upper right")
    return fig


def optimum_and_way(
    replies: Sequence[str],
    ref: np.ndarray,
    best: np.ndarray,
    trained: np.ndarray,
    paths: Mapping[float, np.ndarray],
    tolerance: float,
) -> Figure:
    """Left one context's replies at the optimum, right the way of training to it.

    Parameters
    ----------
    replies : sequence of str, length Y
        Their names.
    ref, best, trained : ndarray, shape (Y,)
        Probabilities: reference, closed form, trained table.
    paths : dict
        {β: KL to the optimum, shape (steps + 1,)}, nats.
    tolerance : float
        KL that counts as none, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), width_ratios=(1.2, 1))
    at = np.arange(len(replies))
    axes[0].bar(at - 0.2, ref, 0.38, color="#BDBDBD", label="reference")
    axes[0].bar(at + 0.2, best, 0.38, color=SKY, label="closed form π*")
    axes[0].plot(at + 0.2, trained, "D", color=BLACK, ms=5, label="trained table")
    axes[0].set(xticks=at, ylabel="probability", title="one context, β = 1")
    axes[0].set_xticklabels(replies, rotation=40, ha="right", rotation_mode="anchor")
    axes[0].legend()
    for (beta, path), colour in zip(
        paths.items(), (VERMILLION, BLUE, GREEN), strict=True
    ):
        axes[1].loglog(
            np.arange(1, len(path)), path[1:], color=colour, label=f"β = {beta:g}"
        )
    axes[1].set(
        xlabel="gradient steps",
        ylabel="KL to π*, nats",
        title="way to the optimum",
        ylim=(1e-7, None),
    )
    axes[1].legend(loc="upper right")
    reference_line(axes[1], tolerance, "tolerance", at=0.98)
    return fig


def information_over_beta(
    betas: np.ndarray,
    chain: np.ndarray,
    top: float,
    others: Mapping[str, np.ndarray],
    start: float,
) -> Figure:
    """Information of the optimum against β: left the chain of bounds, right other laws.

    Parameters
    ----------
    betas : ndarray, shape (S,)
        Values of β.
    chain : ndarray, shape (S, 3)
        I(π*), E[PMI of the reference], I(π_ref), nats.
    top : float
        H(C), all there is, nats.
    others : dict
        {rejected law: I of its optimum, shape (S,)}, nats.
    start : float
        I(π_ref), nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.4), sharey=True)
    for values, name, colour in zip(
        chain.T,
        ("I(π*)", "E[PMI of reference]", "I(reference)"),
        (BLUE, ORANGE, GREY),
        strict=True,
    ):
        axes[0].plot(betas, values, color=colour, label=name)
    for (name, values), colour in zip(
        others.items(), (BLUE, PURPLE, VERMILLION, GREEN), strict=False
    ):
        axes[1].plot(betas, values, color=colour, label=name)
    axes[1].axhline(start, color=GREY, lw=1.6)
    titles = ("random context", "other rejected replies")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_xscale("log")
        ax.set(xlabel="β", title=title, ylim=(0, 1.45 * top), xticks=(0.3, 1, 3, 10))
        ax.set_xticklabels(("0.3", "1", "3", "10"))
        ax.minorticks_off()
        ax.axhline(top, color=BLACK, ls=":", lw=1.2)
        ax.legend(loc="upper right", borderaxespad=0.2)
    axes[0].set_ylabel("information about the context, nats")
    axes[0].annotate(
        "all there is: H(C)",
        (0.98, top),
        xycoords=axes[0].get_yaxis_transform(),
        xytext=(0, -3),
        textcoords="offset points",
        fontsize=9,
        va="top",
        ha="right",
    )
    return fig


def loss_and_information(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """What DPO's loss certifies along training, beside the policy's own information.

    Parameters
    ----------
    panels : dict
        {rejected replies: {"certified": log 2 less the loss, "information": I of the
        policy, both of shape (steps + 1,), "limit": what the loss can certify at most,
        a number}}, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(panels), size=(6.5, 3.4), sharey=True)
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        steps = np.arange(len(values["information"]))
        ax.plot(steps, values["information"], color=BLUE, label="policy: I(Y;C|X)")
        ax.plot(steps, values["certified"], color=ORANGE, label="certified: log 2 − L")
        ax.axhline(
            float(values["limit"]),
            color=ORANGE,
            ls="--",
            lw=1.4,
            label="most it can certify",
        )
        start = values["information"][0]
        ax.axhline(start, color=LIGHT, lw=5, zorder=1, label="reference: I(Y;C|X)")
        ax.set_xscale("symlog", linthresh=1)
        ax.set(
            xlabel="gradient steps",
            title=name,
            xlim=(0, steps[-1]),
            xticks=(0, 1, 10, 100),
            xticklabels=("0", "1", "10", "100"),
        )
        ax.minorticks_off()
    top = max(values["information"].max() for values in panels.values())
    axes[0].set(ylabel="nats", ylim=(0, 1.5 * top))
    axes[0].legend(loc="upper left", borderaxespad=0.1, ncols=1)
    return fig


def nearest_optima(away: Mapping[str, Mapping[str, float]], untrained: str) -> Figure:
    """How near each kind of rejected replies comes to a wanted policy, at its best β.

    Parameters
    ----------
    away : dict
        {wanted policy: {rejected replies: KL from the wanted policy to the nearest
        optimum}}, nats.
    untrained : str
        The row that is no training.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(away), size=(6.5, 2.6), sharex=True, sharey=True)
    for ax, (wanted, values) in zip(axes, away.items(), strict=True):
        colours = [GREY if name == untrained else BLUE for name in values]
        bars = ax.barh(range(len(values)), values.values(), 0.6, color=colours)
        ax.bar_label(bars, fmt="{:.3f}", padding=4, fontsize=9)
        ax.set(title=f"wanted: {wanted}", xlabel="KL from the wanted policy, nats")
        ax.grid(axis="y", visible=False)
    names = list(next(iter(away.values())))
    top = max(nats for values in away.values() for nats in values.values())
    axes[0].set(
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.5, -0.5),
        xlim=(0, 1.25 * top),
    )
    axes[0].locator_params(axis="x", nbins=4)
    return fig


def displaced_replies(cases: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Rise of the chosen replies' log-prob against the entropy of q, a panel per case.

    At most 500 points of a case are drawn; the medians are of all.

    Parameters
    ----------
    cases : dict
        {case: (entropy, rise), both of shape (S,)}, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(2, 2, size=(6.5, 5.0))
    for ax, (name, (entropy, rise)) in zip(axes.flat, cases.items(), strict=True):
        some = slice(None, None, -(-len(entropy) // 500))
        ax.plot(entropy[some], rise[some], ".", color=BLUE, ms=5, alpha=0.35, mew=0)
        edges = np.quantile(entropy, np.linspace(0, 1, 9))
        place = np.digitize(entropy, edges[1:-1])
        middle = [np.median(entropy[place == k]) for k in range(8)]
        typical = [np.median(rise[place == k]) for k in range(8)]
        ax.plot(middle, typical, "o-", color=VERMILLION, ms=4)
        ax.axhline(0, color=BLACK, lw=0.8)
        low = np.quantile(rise, 0.02)
        left, right = np.quantile(entropy, 0.02), entropy.max()
        ax.set_xlim(left, right + 0.03 * (right - left))
        ax.set(title=name, ylim=(1.15 * low, max(0.08 * -low, 1.1 * rise.max())))
        ax.locator_params(nbins=5)
    for ax in axes[:, 0]:
        ax.set_ylabel("rise of log-prob, nats")
    for ax in axes[1]:
        ax.set_xlabel("entropy of q, nats")
    return fig


def negative_laws(
    pvalues: Mapping[str, np.ndarray],
    counts: np.ndarray,
    forced: Mapping[str, np.ndarray],
) -> Figure:
    """Left, do rejected replies follow the marginal? Right, the cost of forcing c' ≠ c.

    Parameters
    ----------
    pvalues : dict
        {law: p-values of chi-square tests, shape (seeds,)}.
    counts : ndarray, shape (K,)
        Numbers of contexts.
    forced : dict
        {how replies follow contexts: KL of the optima, shape (K,)}, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), width_ratios=(1, 1.2))
    colours = (BLUE, VERMILLION, PURPLE)
    for i, (values, colour) in enumerate(zip(pvalues.values(), colours, strict=False)):
        places = i + np.linspace(-0.25, 0.25, len(values))
        shown = np.maximum(values, 1e-12)
        axes[0].plot(places, shown, "o", color=colour, alpha=0.6)
    axes[0].set_yscale("log")
    axes[0].set(
        xticks=range(len(pvalues)),
        xticklabels=pvalues,
        ylim=(2e-13, 20),
        xlim=(-0.5, len(pvalues) - 0.5),
        title="is it the marginal?",
        ylabel="p-value (shown from 1e-12)",
    )
    entries = []
    for (name, values), colour in zip(
        forced.items(), (VERMILLION, ORANGE, PURPLE), strict=False
    ):
        axes[1].plot(counts, values, "o-", color=colour)
        entries.append((counts[-1], values[-1], name, colour))
    axes[1].set_xscale("log")
    axes[1].set(
        xticks=counts,
        xticklabels=[str(k) for k in counts],
        xlabel="number of contexts",
        ylabel="KL of the optima, nats",
        title="cost of forcing c' ≠ c",
        ylim=(0, None),
        xlim=(0.9 * counts[0], 1.15 * counts[-1]),
    )
    axes[1].minorticks_off()
    end_labels(axes[1], entries)
    return fig


def token_against_sequence(
    alphas: np.ndarray,
    gaps: Mapping[str, np.ndarray],
    normaliser: Mapping[str, np.ndarray],
) -> Figure:
    """Left the KL of decoding token by token, right the normaliser behind it.

    Parameters
    ----------
    alphas : ndarray, shape (S,)
        Strength of context-aware decoding, 1/β.
    gaps : dict
        {world: KL to the whole reply's law, shape (S,)}, nats.
    normaliser : dict
        {world: log normaliser of step 2 after a right and a wrong first slot}, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), width_ratios=(1.3, 1))
    at = np.arange(len(next(iter(normaliser.values()))))
    for i, ((name, values), colour) in enumerate(
        zip(gaps.items(), (BLUE, VERMILLION), strict=True)
    ):
        axes[0].plot(alphas, values, color=colour, label=name)
        axes[1].bar(at + 0.4 * i - 0.2, normaliser[name], 0.36, color=colour)
    axes[0].set(
        xlabel="α = 1/β", ylabel="KL, nats", title="token by token against whole"
    )
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    axes[1].set(
        xticks=at,
        xticklabels=("right", "wrong"),
        xlabel="first slot",
        ylabel="log normaliser, nats",
        title="step 2's normaliser",
    )
    return fig


def target_shifts(
    temperatures: np.ndarray,
    sampler: np.ndarray,
    optimum: np.ndarray,
    tokens: np.ndarray,
    summed: np.ndarray,
    mean: np.ndarray,
    ref: np.ndarray,
) -> Figure:
    """Left the optimum at each temperature, right per reply length.

    Parameters
    ----------
    temperatures : ndarray, shape (S,)
        Of the sampler.
    sampler, optimum : ndarray, shape (S,)
        Adherence, shares.
    tokens : ndarray, shape (C,)
        Length of each context's own reply.
    summed, mean, ref : ndarray, shape (C,)
        Its probability at the optima of summed and of averaged log-probs, and in the
        reference.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), sharey=True)
    axes[0].plot(temperatures, optimum, color=BLUE, label="optimum, β = 1")
    axes[0].plot(temperatures, sampler, color=GREY, label="the sampler itself")
    axes[0].plot(1, np.interp(1, temperatures, optimum), "o", color=BLACK)
    axes[0].set(
        xlabel="temperature of the sampler",
        ylabel="share of own replies",
        title="temperature",
        xlim=(min(temperatures), max(temperatures)),
        ylim=(0, 1.03),
    )
    for values, name, colour, marker in (
        (summed, "summed", BLUE, "o"),
        (mean, "token means", VERMILLION, "s"),
        (ref, "reference", GREY, "D"),
    ):
        axes[1].plot(tokens, values, marker=marker, color=colour, label=name)
    axes[1].set(xlabel="tokens of the own reply", title="log-probs summed or averaged")
    for ax in axes:
        ax.legend(loc="lower right")
    return fig


def early_stopping(
    steps: np.ndarray, distance: Mapping[str, np.ndarray], start: float
) -> Figure:
    """KL to the true optimum along gradient descent, seeds thin, their mean thick.

    Parameters
    ----------
    steps : ndarray, shape (steps,)
        Gradient steps.
    distance : dict
        {number of pairs or "all": KL, shape (steps, seeds)}, nats.
    start : float
        KL before training, nats.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    entries = []
    for (name, values), colour in zip(
        distance.items(), (VERMILLION, ORANGE, GREEN, BLUE), strict=False
    ):
        ax.plot(steps, values, color=colour, lw=0.7, alpha=0.4)
        ax.plot(steps, values.mean(1), color=colour)
        best = values.mean(1).argmin()
        if best < len(steps) - 1:
            ax.plot(steps[best], values.mean(1)[best], "o", color=colour, ms=6)
        shown = np.flatnonzero(values.mean(1) > 1e-4)[-1]
        entries.append((steps[shown], values.mean(1)[shown], name, colour))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(
        xlabel="gradient steps",
        ylabel="KL to the optimum π*, nats",
        xlim=(steps[0], steps[-1]),
        ylim=(1e-4, None),
    )
    reference_line(ax, start, "before training", at=0.02)
    end_labels(ax, entries)
    return fig
