"""Chapter 14, people known from text: persona chats, votes in words, an encoder.

Nothing is trained here. What a real language model makes of the text about a person is
set beside an encoder of sentences, the yardstick.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mipo import packaged
from mipo.cache import Run, cached
from mipo.evaluate import paired_bootstrap, retrieval_credit
from mipo.evaluate.embedding import embed, nearest_credit
from mipo.evaluate.reference_free import groups
from mipo.files import dumps, write_whole
from mipo.lm.prompts import render
from mipo.lm.talks import turn_logps
from mipo.logprobs import pmi_over_contexts, response_logps
from mipo.models import load_model
from mipo.network import Unavailable
from mipo.worlds import persona_chats, polis, votes
from mipo.worlds.persona_chats import Talk
from mipo.worlds.wish_checks import without_copies
from mipo_study import ch14_found, ch14_wishes, experiment

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.numbers import Number
    from mipo.record import Notebook

Model = str | Path
Columns = dict[str, list]
PEOPLE = 8  # among whom a reply's own one is looked for
TURNS = 12  # of a talk, half of them by user 2
PERSONA = "Reply as the person who says this about themselves: {}"
MIN_VOTES = 100  # that a statement of a conversation needs
VOTERS = 15  # of each conversation, where there are as many to be asked
SHOWN = 8  # votes of a person in a context
ASKED = 6  # statements that a person is asked about, at most
CONVERSATIONS = (  # the pinned ones with most people left at `MIN_VOTES`
    "american-assembly.bowling-green",
    "scoop-hivemind.biodiversity",
    "ssis.land-bank-farmland.2rumnecbeh.2021-08-01",
)
VOTED = "How I voted on statements of others:"
AGREED = {"+": "I agree", "-": "I disagree"}
QUESTION = (
    'Would I agree or disagree with this: "{}"\n'
    "Answer with one word, agree or disagree."
)
PREDICTORS = ("own", "none", "other", "majority", "encoder own", "encoder other")
SHARES = ("of turns", "of votes")  # units that end at 0 and 1
CHAT_ROWS = (  # of the figure: label, name of the number
    ("model", "chat-model"),
    ("encoder", "chat-encoder"),
    ("model, no copies", "chat-new-model"),
    ("encoder, no copies", "chat-new-encoder"),
)
VOTE_ROWS = (
    ("own votes", "auc-votes-own"),
    ("no votes", "auc-votes-none"),
    ("another's votes", "auc-votes-other"),
    ("encoder, own votes", "auc-votes-encoder-own"),
    ("majority", "auc-votes-majority"),
)
DRAWS = 500  # of the bootstrap of an area under a curve


# ---- what is at hand ----


def at_hand(fetch: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """What a function fetches, or None and a sentence that says why not."""
    try:
        return fetch(*args), ""
    except (Unavailable, polis.DataUnavailable) as error:
        return None, f"Left out: {error}"


def encoder(*, smoke: bool) -> tuple[str, str]:
    """The encoder's name, or "" and a sentence that says why there is none.

    Parameters
    ----------
    smoke : bool
        Whether the scale does without it.
    """
    if smoke:
        return "", "The encoder of sentences is left out at this scale."
    folder, why = at_hand(packaged.folder, packaged.ENCODER)
    return (packaged.ENCODER, "") if folder else ("", why)


def columns_of(run: Run, name: str) -> pd.DataFrame:
    """A table that a run has written, one row per turn or vote."""
    return pd.DataFrame(json.loads(run.read(name)))


# ---- replies to wishes, by the encoder ----


@cached("encoded-{name}-{seed}", inputs=["trial"])
def find_contexts(
    folder: Path,
    *,
    name: str,
    trial: Run,
    seed: int,
    encoder: Model,
    progress: bool,
) -> dict[str, float]:
    """Run of the encoder over the replies that a trial has kept.

    Parameters
    ----------
    name : str
        Of the policy, for the run's own name.
    trial : Run
        Of `ch14_wishes.trial`; nothing is trained or sampled anew.
    seed : int
        The trial's: a reply is compared with the same people as there.
    encoder
        See `mipo.evaluate.embedding.embed`.

    Returns
    -------
    Run
        Metrics: encoder, the mean credit for lying nearest to the own context among
        `ch14_wishes.CONTEXTS`; in own words, the same of replies without the runs of
        five or more words that they copy from it. Empty for a diverged training.
    """
    kept = ch14_found.replies_of(trial, "plain")
    if not kept:
        return {}
    crowds = groups(kept, ch14_wishes.CONTEXTS, seed=seed)
    replies = [row["reply"] for row in kept]
    own = [without_copies(row["reply"], row["context"]) for row in kept]
    return {
        "encoder": float(nearest_credit(replies, crowds, encoder).mean()),
        "in own words": float(nearest_credit(own, crowds, encoder).mean()),
    }


def encoded(trials: pd.DataFrame, encoder: Model, **run_as: Any) -> pd.DataFrame:
    """Share of each policy's replies that find their own context among eight people.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `ch14_real_model.compare`.
    encoder
        See `find_contexts`.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    pandas.DataFrame
        Index: arm, seed. encoder, in own words; model, the retrieval under the
        untrained language model.
    """
    runs: dict[Any, Run] = trials.run.to_dict()
    calls = {
        (arm, seed): {"name": arm, "seed": seed, "trial": run}
        for (arm, seed), run in runs.items()
    }
    found = experiment.run_many(
        find_contexts, calls, index=["arm", "seed"], encoder=encoder, **run_as
    )
    found["model"] = [ch14_found.mean_of(r, "plain", "match") for r in trials.run]
    return found[["encoder", "in own words", "model"]].astype(float)


def keep_encoded(nb: Notebook, found: pd.DataFrame) -> None:
    """Keep what `encoded` found as numbers `encoder-<arm>` and `encoder-own-<arm>`."""
    for arm in found.index.unique("arm"):
        for name, column in (("encoder", "encoder"), ("encoder-own", "in own words")):
            values = found[column][arm]
            if values.notna().all():
                nb.number(f"{name}-{arm}", values.to_list(), "of replies")


# ---- whose reply is it? ----


def persona(talk: Talk) -> str:
    """What the model is told of user 2."""
    return PERSONA.format(" ".join(talk.personas[1]))


def messages(talk: Talk, context: str) -> list[dict[str, str]]:
    """A talk with the model in user 2's place, told a persona first."""
    roles = ("user", "assistant")
    said = [
        {"role": roles[i % 2], "content": turn} for i, turn in enumerate(talk.turns)
    ]
    first = {"role": "user", "content": f"{context}\n\n{talk.turns[0]}"}
    return [first, *said[1:]]


@cached("chats-{n_talks}", inputs=["base", "file"], keep=["turns.json"])
def score_chats(
    folder: Path,
    *,
    base: Model,
    file: Path,
    n_talks: int,
    encoder: Model,
    seed: int = 0,
    progress: bool,
) -> dict[str, Any]:
    """Run of what a persona says about each turn of user 2, given the talk so far.

    Parameters
    ----------
    base : str or Path
        The model that measures.
    file : Path
        See `persona_chats.file`.
    n_talks : int
        Talks, each of another user 2, of which the first `TURNS` turns are read.
    encoder : str or Path
        "" leaves it out.
    seed : int
        Of the talks, and of the other people.

    Returns
    -------
    Run
        Metrics: talks; left_out, rows of the file that are no such talk. File
        turns.json, columns with a value per turn: talk, tokens; pmi with the own
        persona (nats, at most log `PEOPLE`); match (credit for being likeliest under
        it); copies, whether five or more words stand in the persona; encoder (credit
        for lying nearest to it).

    Notes
    -----
    Others are drawn whatever the talk has told so far. So the mean of pmi is, for true
    others at random, a lower bound (InfoNCE, with the model as critic) of what talk
    and turn together tell about the persona; of what the turn adds to the talk it is an
    estimate, not a bound.
    """
    talks, left_out = persona_chats.read(file)
    drawn = persona_chats.draw(talks, n_talks, turns=TURNS, seed=seed)
    crowds = groups([{"context": persona(talk)} for talk in drawn], PEOPLE, seed=seed)
    model, tokenizer = load_model(base)
    parts = []
    pairs = tqdm(list(zip(drawn, crowds, strict=True)), disable=not progress)
    for talk, crowd in pairs:
        part = _turns(model, tokenizer, talk, crowd)
        if encoder:
            said = talk.turns[1::2]
            part["encoder"] = nearest_credit(said, [crowd] * len(said), encoder)
        parts.append(pd.DataFrame(part))
    table = pd.concat(parts).round(ch14_wishes.DIGITS)
    write_whole(folder / "turns.json", dumps(table.to_dict("list")))
    return {"talks": len(drawn), "left_out": left_out}


def _turns(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    talk: Talk,
    crowd: Sequence[str],
) -> dict[str, Any]:
    """Columns of the turns of user 2; the first of the crowd is their own persona."""
    scores = [turn_logps(model, tokenizer, messages(talk, who)) for who in crowd]
    under = torch.stack([score.summed for score in scores], dim=1).double()  # (T, K)
    own = " ".join(talk.personas[1])
    return {
        "talk": talk.row,
        "tokens": scores[0].tokens.numpy(),
        "pmi": pmi_over_contexts(under[:, 0], under).numpy(),
        "match": retrieval_credit(under.numpy()),
        "copies": [without_copies(turn, own) != turn for turn in talk.turns[1::2]],
    }


def chats(
    base: Model, n_talks: int, *, encoder: Model, **run_as: Any
) -> tuple[pd.DataFrame | None, str]:
    """The turns of `score_chats`, or None and a sentence that says why not.

    Parameters
    ----------
    base, n_talks, encoder
        See `score_chats`.
    run_as
        run_dir, workers and progress of `experiment.run_many`.
    """
    file, why = at_hand(persona_chats.file, "test")
    if file is None:
        return None, why
    call = {"base": base, "file": file, "n_talks": n_talks, "encoder": encoder}
    runs = experiment.run_many(score_chats, {0: call}, **run_as)
    return columns_of(runs.run[0], "turns.json"), ""


def keep_chats(nb: Notebook, turns: pd.DataFrame) -> None:
    """Keep means over the turns of `score_chats`, with intervals over talks."""
    new = turns[~turns.copies]
    nb.number("chat-copies", float(turns.copies.mean()), "of turns")
    for name, rows in (("chat", turns), ("chat-new", new)):
        _keep(nb, f"{name}-model", rows.match, rows.talk, "of turns")
        _keep(nb, f"{name}-pmi", rows.pmi, rows.talk, "nats per turn")
        per_token = rows.pmi / rows.tokens
        _keep(nb, f"{name}-pmi-per-token", per_token, rows.talk, "nats per token")
        if "encoder" in rows:
            _keep(nb, f"{name}-encoder", rows.encoder, rows.talk, "of turns")
            lead = rows.match - rows.encoder
            _keep(nb, f"{name}-model-less-encoder", lead, rows.talk, "of turns")


def _keep(nb: Notebook, name: str, values: Any, clusters: Any, unit: str) -> None:
    """Keep a mean with its interval over clusters; a lone cluster has none."""
    column, ids = np.asarray(values, float), np.asarray(clusters)
    if len(set(ids)) < 2:
        nb.number(name, [float(column.mean())], unit)
        return
    mean, low, high = paired_bootstrap(column, np.zeros_like(column), ids)
    if unit in SHARES and column.min() >= 0:
        low, high = max(0.0, low), min(1.0, high)
    nb.number(name, mean, unit, interval=(low, high))


# ---- votes in words ----


def in_words(context: str, texts: Mapping[int, str]) -> list[tuple[str, str]]:
    """(what the person did, statement) of each vote of a context.

    Parameters
    ----------
    context : str
        As `votes.context_text` writes it, such as "votes: s12+ s40-".
    texts : dict
        {id: what the statement says}.
    """
    marks = context.split()[1:]
    return [(AGREED[mark[-1]], texts[int(mark[1:-1])]) for mark in marks]


def context_of(shown: Iterable[tuple[str, str]]) -> str:
    """Votes of `in_words` as the model reads them."""
    lines = [f"{did}: {one_line(text)}" for did, text in shown]
    return "\n".join([VOTED, *lines])


def one_line(text: str) -> str:
    """A statement without line breaks, which would end it."""
    return " ".join(text.split())


def log_odds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    statements: Sequence[str],
) -> np.ndarray:
    """log p(agree) - log p(disagree) of statements, under one context.

    Parameters
    ----------
    model, tokenizer
        The policy.
    context : str
        Votes in words; "" for nobody's.
    statements : sequence of str, length Q
        What is asked about.

    Returns
    -------
    ndarray, shape (Q,)
        Nats.

    Notes
    -----
    The context is read once, with every question and reply behind it: the log-prob of
    the question is in both sums and leaves their difference alone.
    """
    tails: list[str] = []
    head = ""
    for statement in statements:
        question = QUESTION.format(one_line(statement))
        asked = f"{context}\n\n{question}" if context else question
        prompt = render(tokenizer, question, context)
        head = prompt.partition(asked)[0] + context
        tails += [prompt.removeprefix(head) + reply for reply in votes.REPLIES]
    scores = response_logps(model, tokenizer, [head], [tails]).summed.double()
    agree, disagree = scores.reshape(-1, 2).T
    return (agree - disagree).numpy()


@cached("votes-in-words-{name}", inputs=["base", "talk"], keep=["votes.json"])
def predict_votes(
    folder: Path,
    *,
    name: str,
    base: Model,
    talk: Path,
    n_people: int,
    encoder: Model,
    min_votes: int = MIN_VOTES,
    seed: int = 0,
    progress: bool,
) -> dict[str, Any]:
    """Run of a model's guesses how people voted, from the text of other votes.

    Parameters
    ----------
    name : str
        Of the conversation, for the run's own name.
    base : str or Path
        The model that guesses.
    talk : Path
        Folder of a Polis export.
    n_people : int
        Of the test people of `mipo.worlds.votes.panel`.
    encoder : str or Path
        "" leaves it out.
    min_votes : int
        See `mipo.worlds.votes.panel`.
    seed : int
        Of who is asked what, and of whose context the other one is.

    Returns
    -------
    Run
        Metrics: people, votes. File votes.json, columns with a value per vote: person,
        agree (the vote); own, none, other: log-odds of agree given the person's votes,
        nobody's, another person's, nats; majority, that of the vote's statement among
        the people of the base; "encoder own", "encoder other": the sum of the shown
        votes (1 agree, -1 disagree), each times the cosine of its statement with the
        one that is asked about.
    """
    world = votes.panel(polis.read(talk), min_votes=min_votes, seed=seed)
    drawn = votes.examples(world, "test", questions=ASKED, max_context=SHOWN, seed=seed)
    people = list(dict.fromkeys(example["person"] for example in drawn))[:n_people]
    asked = [example for example in drawn if example["person"] in people]
    other = votes.shuffled(asked, seed=seed)
    texts = dict(zip(map(int, world.names), world.texts, strict=True))
    model, tokenizer = load_model(base)
    nobody = [{**example, "context": ""} for example in asked]
    majority = votes.by_statement(votes.majority(world), asked)
    table: Columns = {
        "person": [example["person"] for example in asked],
        "agree": [example["gold"] == votes.REPLIES[0] for example in asked],
        "own": _guesses(model, tokenizer, texts, asked, progress),
        "none": _guesses(model, tokenizer, texts, nobody, progress),
        "other": _guesses(model, tokenizer, texts, other, progress),
        "majority": np.log(majority[:, 0] / majority[:, 1]).tolist(),
    }
    if encoder:
        table["encoder own"] = lean(asked, texts, encoder)
        table["encoder other"] = lean(other, texts, encoder)
    rounded = pd.DataFrame(table).round(ch14_wishes.DIGITS)
    write_whole(folder / "votes.json", dumps(rounded.to_dict("list")))
    return {"people": len(people), "votes": len(asked)}


def _guesses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[int, str],
    examples: Sequence[Mapping[str, Any]],
    progress: bool,
) -> list[float]:
    """Log-odds of examples; what is asked under one context is computed together."""
    wanted: dict[str, dict[int, None]] = {}
    for example in examples:
        wanted.setdefault(example["context"], {})[example["statement"]] = None
    odds: dict[tuple[str, int], float] = {}
    for context, ids in tqdm(wanted.items(), disable=not progress):
        shown = context_of(in_words(context, texts)) if context else ""
        found = log_odds(model, tokenizer, shown, [texts[i] for i in ids])
        odds |= zip([(context, i) for i in ids], found.tolist(), strict=True)
    return [odds[example["context"], example["statement"]] for example in examples]


def lean(
    examples: Sequence[Mapping[str, Any]], texts: Mapping[int, str], encoder: Model
) -> list[float]:
    """The encoder's guess: shown votes, weighted by how near their statements lie.

    Parameters
    ----------
    examples : sequence of dict
        Of `votes.examples`.
    texts : dict
        {id: what the statement says}.
    encoder
        See `mipo.evaluate.embedding.embed`.

    Returns
    -------
    list of float
        Above 0 for agree.
    """
    shown = [in_words(example["context"], texts) for example in examples]
    asked = [texts[example["statement"]] for example in examples]
    wanted = [*asked, *(text for some in shown for _, text in some)]
    distinct = list(dict.fromkeys(wanted))
    known = dict(zip(distinct, embed(distinct, encoder), strict=True))
    leans = []
    for statement, some in zip(asked, shown, strict=True):
        signs = np.array([1 if did == AGREED["+"] else -1 for did, _ in some])
        near = np.stack([known[text] for _, text in some])  # (V, d)
        leans.append(float(signs @ near @ known[statement]))
    return leans


def area(scores: Any, agree: Any) -> float:
    """Area under the ROC curve: how often an agreed vote has the higher score.

    Parameters
    ----------
    scores : array_like, shape (N,)
        The higher, the likelier to agree.
    agree : array_like of bool, shape (N,)
        The votes.

    Returns
    -------
    float
        Over all pairs of an agreed and a disagreed vote, ties count half; NaN where
        all votes are alike.
    """
    scores, agree = np.asarray(scores, float), np.asarray(agree, bool)
    gaps = scores[agree][:, None] - scores[~agree][None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else np.nan


def areas(table: pd.DataFrame) -> pd.Series:
    """Area under each predictor's curve, mean over conversations; see `area`."""
    town, agree = table.conversation.to_numpy(), table.agree.to_numpy(bool)
    places = [town == name for name in np.unique(town.astype(str))]
    found = {}
    for name in [name for name in PREDICTORS if name in table]:
        scores = table[name].to_numpy(float)
        parts = [area(scores[here], agree[here]) for here in places]
        found[name] = np.nanmean(parts)
    return pd.Series(found, dtype=float)


def resampled(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series], *, seed: int
) -> pd.DataFrame:
    """Statistics of a table of votes whose people are drawn anew, a row per draw.

    Parameters
    ----------
    table : pandas.DataFrame
        With conversation and person; people are drawn within their conversation, each
        with all their votes.
    statistic : callable
        Of such a table.
    seed : int
        Of the draws.
    """
    rng = np.random.default_rng((seed, 14))
    whole = table.reset_index(drop=True)
    towns = [
        [of_person.index.to_numpy() for _, of_person in of_town.groupby("person")]
        for _, of_town in whole.groupby("conversation")
    ]
    found = []
    for _ in range(DRAWS):
        drawn = [
            people[i]
            for people in towns
            for i in rng.integers(len(people), size=len(people))
        ]
        found.append(statistic(whole.iloc[np.concatenate(drawn)]))
    return pd.DataFrame(found)


def guessed_votes(
    base: Model, n_people: int, *, encoder: Model, **run_as: Any
) -> tuple[pd.DataFrame | None, str]:
    """The votes of `predict_votes`, or None and a sentence that says why not.

    Parameters
    ----------
    base : str or Path
        The model that guesses.
    n_people : int
        Of each conversation, `VOTERS` at most; with fewer, one conversation is enough
        to see that the code runs.
    encoder : str or Path
        See `predict_votes`.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    table : pandas.DataFrame or None
        Columns of votes.json, and conversation.
    why : str
        "" where there is a table.
    """
    names = CONVERSATIONS if n_people >= VOTERS else CONVERSATIONS[-1:]
    calls = {}
    for name in names:
        talk, why = at_hand(polis.folder, name)
        if talk is None:
            return None, why
        calls[name] = {"name": name, "talk": talk}
    runs = experiment.run_many(
        predict_votes,
        calls,
        index="conversation",
        base=base,
        n_people=min(n_people, VOTERS),
        encoder=encoder,
        **run_as,
    )
    tables = [
        columns_of(run, "votes.json").assign(conversation=name)
        for name, run in zip(calls, runs.run, strict=True)
    ]
    return pd.concat(tables, ignore_index=True), ""


def keep_votes(nb: Notebook, table: pd.DataFrame) -> None:
    """Keep what `guessed_votes` says of each predictor, with intervals over people.

    Parameters
    ----------
    nb : Notebook
        What keeps the numbers: auc-votes-<predictor>, accuracy-votes-<predictor>;
        auc-votes-own-less-none; votes-know-<model or encoder>, the share of votes that
        fit the own context better than another person's (chance: one half);
        votes-gain, what the own votes add to the log-prob of the vote, nats.
    table : pandas.DataFrame
        Of `guessed_votes`.
    """
    people = table.conversation + " " + table.person.astype(str)
    curves = areas(table)
    curves["own-less-none"] = curves["own"] - curves["none"]
    draws = resampled(table, areas, seed=0)
    draws["own-less-none"] = draws["own"] - draws["none"]
    for name, value in curves.items():
        ends = draws[name].quantile([0.025, 0.975]).to_list()
        unit = "of pairs of votes"
        nb.number(f"auc-votes-{_slug(name)}", float(value), unit, interval=ends)
    sign = np.where(table.agree, 1, -1)
    for name in [name for name in PREDICTORS if name in table]:
        right = credit(sign * table[name])
        _keep(nb, f"accuracy-votes-{_slug(name)}", right, people, "of votes")
    rivals = {"model": ("own", "other"), "encoder": ("encoder own", "encoder other")}
    for name, (own, other) in rivals.items():
        if own in table:
            fits = credit(sign * (table[own] - table[other]))
            _keep(nb, f"votes-know-{name}", fits, people, "of votes")
    gain = np.logaddexp(0, -sign * table.none) - np.logaddexp(0, -sign * table.own)
    _keep(nb, "votes-gain", gain, people, "nats per vote")


def credit(values: Any) -> np.ndarray:
    """1 above 0, 0 below, one half at 0."""
    values = np.asarray(values, float)
    return (values > 0) + 0.5 * (values == 0)


def _slug(name: Any) -> str:
    return str(name).replace(" ", "-")


# ---- on the page ----


def panels(nb: Notebook) -> tuple[dict[str, dict[str, Number]], dict[str, float]]:
    """The panels of `figures.known.known_from_text`, and chance's level in each.

    Parameters
    ----------
    nb : Notebook
        Which has kept what `keep_chats` or `keep_votes`, or both, have found.

    Returns
    -------
    panels : dict
        {title: {guesser: number}}.
    chance : dict
        {title: share}.
    """
    titles = (
        f"turns that find their persona among {PEOPLE} (share)",
        "area under the curve of votes (share of pairs)",
    )
    drawn = {
        title: {label: nb.numbers[name] for label, name in rows if name in nb.numbers}
        for title, rows in zip(titles, (CHAT_ROWS, VOTE_ROWS), strict=True)
    }
    levels = dict(zip(titles, (1 / PEOPLE, 0.5), strict=True))
    return {title: rows for title, rows in drawn.items() if rows}, levels


def found_before(nb: Notebook, names: Iterable[str]) -> str:
    """What the published run found, in a sentence, where this one did not look.

    Parameters
    ----------
    nb : Notebook
        Of this chapter.
    names : iterable of str
        Of numbers.
    """
    numbers = {name: nb.published(name) for name in names}
    known = [f"{name} {number}" for name, number in numbers.items() if number]
    said = "; ".join(known) or "no run yet"
    return f"Not measured at this scale. The published run: {said}."
