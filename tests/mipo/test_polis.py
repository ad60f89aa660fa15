"""Polis exports and votes: what is read and refused, who sees what, exact probabilities, and the optimum by hand."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal

from mipo import data
from mipo.worlds import polis, votes

COMMENTS = [
    "timestamp,comment-id,author-id,agrees,disagrees,moderated,comment-body",
    '1,2,0,2,1,1,"Two lines,\nwith a comma"',
    "1,10,0,1,1,1,Ten",
    "1,3,0,0,0,-1,Turned down",
]
VOTES = [
    "participant,group-id,n-comments,n-votes,n-agree,n-disagree,2,3,10",
    "0,0,0,2,1,1,1,,-1",
    "1,1,0,2,1,0,1,,0",
    "7,,0,3,1,1,-1,0,1",
]
SUMMARY = [
    "topic,A town",
    "url,https://example.org",
    'conversation-description,"What\nnow?"',
]


def _export(path, comments=COMMENTS, rows=VOTES, summary=SUMMARY):
    path.mkdir(parents=True, exist_ok=True)
    for name, lines in zip(polis.FILES, (comments, rows, summary), strict=True):
        if lines is not None:
            (path / name).write_bytes(
                "\n".join(lines).encode() if isinstance(lines, list) else lines
            )
    return path


def test_read_small_export(tmp_path):
    talk = polis.read(_export(tmp_path))
    assert talk.topic == "A town"
    assert talk.statements.tolist() == [2, 3, 10]
    assert talk.texts == ("Two lines,\nwith a comma", "Turned down", "Ten")
    assert talk.accepted.tolist() == [True, False, True]
    assert talk.people.tolist() == ["0", "1", "7"] and talk.groups.tolist() == [
        0,
        1,
        -1,
    ]
    assert_allclose(talk.votes, [[1, np.nan, -1], [1, np.nan, 0], [-1, 0, 1]])


def _saved_again(lines):
    """As pandas writes a table in which some cells are empty: 1 as 1.0."""
    return [re.sub(r"(?<=[\n,])(-?\d+)(?=,|$)", r"\1.0", f"\n{x}")[1:] for x in lines]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_pandas_or_a_spreadsheet_saved_is_read_alike(tmp_path, end):
    """A byte order mark, any line ends, numbers as 1.0, lines of empty cells."""
    plain = polis.read(_export(tmp_path / "plain"))
    ballots = [VOTES[0], *_saved_again(VOTES[1:]), "," * 8]
    assert ballots[1] == "0.0,0.0,0.0,2.0,1.0,1.0,1.0,,-1.0"
    comments = [COMMENTS[0], *_saved_again(COMMENTS[1:])]
    tables = [comments, ballots, SUMMARY]
    written = [b"\xef\xbb\xbf" + end.join(lines).encode() for lines in tables]
    again = polis.read(_export(tmp_path / "again", *written))
    assert again.topic == plain.topic
    assert [text.split() for text in again.texts] == [t.split() for t in plain.texts]
    for name in ("people", "groups", "statements", "accepted", "votes"):
        assert_equal(getattr(again, name), getattr(plain, name))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\x1e"])
def test_a_line_separator_within_a_statement_is_no_new_line(tmp_path, mark):
    comments = [*COMMENTS[:2], f"1,10,0,1,1,1,Ten{mark}more", COMMENTS[3]]
    talk = polis.read(_export(tmp_path, comments=comments))
    assert talk.texts[2] == f"Ten{mark}more" and len(talk.texts) == 3


def _votes(*lines):
    return [VOTES[0], *lines]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rows": _votes("0,0,0,2,1,1,1,,5")}, ["line 2, column 10", '"5" is no vote']),
        (
            {"rows": _votes("0,0,0,2,1,1,1,,-1", "1,1,0,1,1,0,yes,,0")},
            ["line 3, column 2", '"yes" is no vote'],
        ),
        (
            {"rows": _votes("0,0,0,2,1,1,1,")},
            ["participants-votes.csv, line 2", "8 cells where the header has 9"],
        ),
        ({"rows": _votes("0,0,0,2,2,0,-1,,-1")}, ["the sign is flipped"]),
        (
            {"rows": _votes("0,0,0,2,5,0,-1,,-1")},
            [
                "line 2: n-agree 5 and n-disagree 0 contradict",
                "0 and 2; so it is for 1 of 1",
            ],
        ),
        (
            {"rows": _votes(VOTES[1], VOTES[1])},
            ["line 3: participant 0 is given twice, first in line 2"],
        ),
        ({"rows": [VOTES[0]]}, ["no row below its header"]),
        (
            {"rows": [VOTES[0].replace("group-id", "group"), *VOTES[1:]]},
            ['column "group-id" is missing'],
        ),
        (
            {"rows": [VOTES[0].replace(",10", ",2"), *VOTES[1:]]},
            ['column "2" is given twice'],
        ),
        (
            {"rows": [VOTES[0].replace(",10", ",11"), *VOTES[1:]]},
            ["statement 11 is not in comments.csv"],
        ),
        (
            {"comments": [*COMMENTS, "1,10,0,1,1,1,Again"]},
            ["comments.csv, line 6", "comment-id 10 is given twice"],
        ),
        (
            {"comments": [COMMENTS[0].replace("moderated", "mod"), *COMMENTS[1:]]},
            ['column "moderated" is missing'],
        ),
        (
            {"comments": "\n".join(COMMENTS).encode() + b"\xff"},
            ["comments.csv", "not UTF-8"],
        ),
        ({"summary": None}, ["summary.csv", "missing"]),
        # as a spreadsheet saves it where commas are decimal
        (
            {"comments": [line.replace(",", ";") for line in COMMENTS]},
            ["comments.csv, line 1", "separated by ';': save it with commas"],
        ),
        (
            {"rows": [line.replace(",", "\t") for line in VOTES]},
            ["participants-votes.csv, line 1", "separated by '\\t'"],
        ),
        (
            {"comments": ["sep=,", *COMMENTS]},
            ["comments.csv, line 1", "delete the line that begins with sep="],
        ),
        (
            {"comments": "\n".join(COMMENTS).encode("utf-16")},
            ["comments.csv: byte 1 is not UTF-8; save it as CSV in UTF-8"],
        ),
        (
            {"comments": [*COMMENTS, "1,11,0,1,1,True,Yes"]},
            ["comments.csv, line 6, column moderated", '"True" is none of 1, 0 and -1'],
        ),
        (
            {"rows": _votes(VOTES[1].replace("0,", ",", 1))},
            ["line 2, column participant: the cell is empty"],
        ),
        (
            {"rows": _votes("0,0,0,2,1,1,1,,NaN")},
            ["line 2, column 10", '"NaN" is no vote'],
        ),
        (
            {"rows": _votes('0,0,0,2,1,1,"1,0",,-1')},
            ["line 2, column 2", '"1,0" is no vote'],
        ),
        # one person of three, though the others are right
        (
            {"rows": [*VOTES[:3], "7,,0,3,2,1,-1,0,1"]},
            ["line 4: n-agree 2 and n-disagree 1", "which are 1 and 1; so it is for 1"],
        ),
        (
            {"comments": [*COMMENTS[:2], '1,10,0,1,1,1," \u200b"', COMMENTS[3]]},
            ["comments.csv, line 4", "statement 10 has no text"],
        ),
        (
            {"comments": [*COMMENTS[:2], "1,10,0,1,1,1,T\0n", COMMENTS[3]]},
            ["comments.csv, line 4", "NUL bytes"],
        ),
        (
            {"rows": _votes(VOTES[1].replace("-1", "-1\0"))},
            ["participants-votes.csv, line 2", "NUL bytes"],
        ),
        (
            {"comments": [*COMMENTS, f"1,11,0,1,1,1,{'x' * 140_000}"]},
            ["comments.csv, line 6", "field larger than field limit (131072)"],
        ),
        (
            {"rows": [VOTES[0] + "," + "9" * 6000, VOTES[1] + ","]},
            ["line 1: column 9999", "… (6000 characters) is no statement id"],
        ),
        (
            {"rows": [VOTES[0] + ",²", VOTES[1] + ","]},
            ["line 1: column ² is no statement id"],
        ),
    ],
)
def test_read_refuses_naming_the_place(tmp_path, change, words):
    with pytest.raises(ValueError) as error:
        polis.read(_export(tmp_path, **change))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("column", ["group-id", "n-agree", "n-disagree"])
@pytest.mark.parametrize(
    "cell", ["abc", "1.5", "-1", "NaN", "1e3", "9" * 6000, "1" * 19, "²"]
)
def test_a_count_or_group_that_is_no_number_is_named(tmp_path, column, cell):
    place = VOTES[0].split(",").index(column)
    cells = VOTES[2].split(",")
    cells[place] = cell
    rows = [VOTES[0], VOTES[1], ",".join(cells)]
    with pytest.raises(ValueError) as error:
        polis.read(_export(tmp_path, rows=rows))
    message = str(error.value)
    assert f'participants-votes.csv, line 3, column {column}: "{cell[:9]}' in message
    assert "is no whole number of at most 18 digits" in message
    assert len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("column", ["n-agree", "n-disagree"])
def test_a_count_may_not_be_missing_but_a_group_may(tmp_path, column):
    place = VOTES[0].split(",").index(column)
    cells = VOTES[2].split(",")
    cells[place] = ""
    rows = [VOTES[0], VOTES[1], ",".join(cells)]
    with pytest.raises(ValueError, match=f'line 3, column {column}: "" is no whole'):
        polis.read(_export(tmp_path, rows=rows))


# ---- where the files come from ----


def test_folder_of_the_reader(tmp_path):
    assert polis.folder(_export(tmp_path / "mine")) == tmp_path / "mine"
    with pytest.raises(ValueError, match="neither a folder"):
        polis.folder("bowling-green")


def test_folder_checks_the_pinned_hash(tmp_path, monkeypatch):
    name = "american-assembly.bowling-green"
    _export(tmp_path / "polis" / name)
    monkeypatch.setenv("MIPO_DATA", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"comments.csv: SHA-256 .* is not the pinned b5d72fbb1b15"
    ):
        polis.folder(name)


def test_folder_unavailable_without_data_and_network(tmp_path, monkeypatch):
    monkeypatch.delenv("MIPO_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(polis.DataUnavailable, match="HF_HUB_OFFLINE is set"):
        polis.folder("brexit-consensus")


def test_download_is_pinned_and_failure_is_said(tmp_path, monkeypatch):
    import pooch

    asked = []

    def refuse(url, known_hash, **_):
        asked.append((url, known_hash))
        raise ConnectionError("no network")

    monkeypatch.delenv("MIPO_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(
        polis.DataUnavailable,
        match=r"comments.csv could not be downloaded \(ConnectionError\)",
    ):
        polis.folder("brexit-consensus")
    # commit and hash: the public repository's, as its copy's source note gives them
    assert asked == [
        (
            "https://raw.githubusercontent.com/compdemocracy/openData/"
            "0bc2ce0f32c673f68da20b57bce15c457aa787b5/brexit-consensus/comments.csv",
            "sha256:f9a341a6acadd8277458ed1ec1280508450dcc53f23cfdad9baf92a538bbd74c",
        )
    ]


@pytest.mark.parametrize("name", list(polis.SHA256))
def test_all_ten_conversations(mipo_data, monkeypatch, name):
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    talk = polis.read(
        polis.folder(name)
    )  # hashes, columns and the sign are checked on the way
    assert set(np.unique(talk.votes[np.isfinite(talk.votes)])) <= {-1, 0, 1}
    assert (
        talk.votes.shape
        == (len(talk.people), len(talk.statements))
        == (len(talk.groups), len(talk.texts))
    )


def test_bowling_green_counts(mipo_data, monkeypatch):
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    talk = polis.read(polis.folder("american-assembly.bowling-green"))
    assert talk.votes.shape == (2031, 896)  # voters and comments in summary.csv
    assert (
        int(np.isfinite(talk.votes).sum()) == 225_524
    )  # counted once with awk, not with this code


# ---- votes as a world ----


@pytest.fixture(scope="module")
def talk():
    """An invented town: 60 people of two kinds, 12 statements; kind 0 agrees with even statements, kind 1 with odd."""
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    sides = np.where((np.arange(12)[None] + kind[:, None]) % 2 == 0, 1.0, -1.0)
    ballots = np.where(rng.random((60, 12)) < 0.1, -sides, sides)
    ballots[rng.random((60, 12)) < 0.15] = np.nan
    ballots[rng.random((60, 12)) < 0.05] = 0
    texts = tuple(f"statement {i}" for i in range(12))
    return polis.Conversation(
        "invented",
        "",
        np.arange(60).astype(str),
        kind,
        np.arange(100, 112),
        texts,
        np.arange(12) != 11,
        ballots.astype(np.float32),
    )


@pytest.fixture(scope="module")
def world(talk):
    return votes.panel(talk, min_votes=20, min_context=3, seed=1)


def test_panel_filters_and_splits(talk, world):
    assert world.names.tolist() == list(
        range(100, 111)
    )  # 111 was turned down by the moderators
    assert world.names[world.held_out].tolist() == [102, 105, 108]  # every third
    everybody = np.concatenate(list(world.rows.values()))
    assert sorted(everybody) == list(
        range(len(world.votes))
    )  # each person in exactly one split
    assert [len(world.rows[k]) for k in votes.SPLITS] == [
        29,
        12,
        5,
        12,
    ]  # of 58; cut at 29, 40.6, 46.4, 58
    other = votes.panel(talk, min_votes=20, min_context=3, seed=2)
    assert (other.rows["test"] != world.rows["test"]).any()
    with pytest.raises(ValueError, match="too few"):
        votes.panel(talk, min_votes=61)


def test_records_never_show_what_is_asked(talk, world):
    recs = votes.examples(world, "test", questions=2, max_context=4, seed=0)
    assert len({r["person"] for r in recs}) == 12
    for r in recs:
        shown = [int(w[1:-1]) for w in r["context"].split()[1:]]
        assert len(shown) <= 4 and len(set(shown)) == len(shown)
        assert not {102, 105, 108} & set(shown)
        ballot = talk.votes[r["person"]]
        assert {100 + i: v for i, v in enumerate(ballot)}[r["statement"]] == {
            "agree": 1,
            "disagree": -1,
        }[r["gold"]]
        for word in r["context"].split()[1:]:
            assert ballot[int(word[1:-1]) - 100] == {"+": 1, "-": -1}[word[-1]]
    blind = votes.examples(world, "mipo", questions=3, answered=False, seed=0)
    assert len(blind) == 36 and all(
        r["gold"] is None for r in blind
    )  # everybody is asked everything
    assert data.FIELDS == tuple(k for k in ("context", "query", "gold") if k in recs[0])


def test_shuffled_moves_everybody(world):
    recs = votes.examples(world, "test", seed=0)
    own, moved = (
        {r["person"]: r["context"] for r in x}
        for x in (recs, votes.shuffled(recs, seed=3))
    )
    assert sorted(own.values()) == sorted(moved.values())
    assert all(own[p] != moved[p] for p in own)
    with pytest.raises(ValueError, match="fewer than two people"):
        votes.shuffled(recs[:1])


def test_majority_by_hand(talk, world):
    ballots = talk.votes[world.people[world.rows["base"]], 2]  # statement 102
    agree, disagree = (ballots == 1).sum(), (ballots == -1).sum()
    assert_allclose(
        votes.majority(world)[0],
        np.array([agree + 1, disagree + 1]) / (agree + disagree + 2),
    )


def test_places_match_svd_and_separate_the_two_kinds(world):
    at, shares = votes.places(world)
    cast = world.votes != 0
    centred = np.where(cast, world.votes - world.votes.sum(0) / cast.sum(0), 0)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert_allclose(shares, singular[:2] ** 2 / (singular**2).sum())
    first, second = (at[world.groups == g, 0] for g in (0, 1))
    assert max(first.min(), second.min()) > min(
        first.max(), second.max()
    )  # no overlap along the first axis


# ---- probabilities ----


@pytest.fixture(scope="module")
def model_and_tokenizer(world):
    from mipo import models

    tokenizer = models.build_tokenizer(votes.vocabulary(world))
    return models.small_model(
        tokenizer, hidden=32, layers=2, heads=4, seed=0
    ), tokenizer


def test_vocabulary_covers_every_prompt(world, model_and_tokenizer):
    tokenizer = model_and_tokenizer[1]
    rng = np.random.default_rng(0)
    drawn = votes.training_examples(world, tokenizer, max_context=5)(rng, 200)
    assert {reply for _, reply in drawn} == {"agree", "disagree"}
    for prompt, reply in drawn:
        ids = tokenizer(prompt + reply)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == prompt + reply
    assert (
        0.03 < np.mean(["votes:" not in prompt for prompt, _ in drawn]) < 0.2
    )  # a tenth without context


def test_vote_probs_equal_naive_softmax(world, model_and_tokenizer):
    import torch

    model, tokenizer = model_and_tokenizer
    recs = [
        *votes.examples(world, "test", questions=3, seed=0),
        {**votes.examples(world, "test", seed=0)[0], "context": ""},
    ]
    got = votes.vote_probs(model, tokenizer, recs)
    for r, p in zip(recs, got, strict=True):
        content = (
            r["context"] + "\n\n" if r["context"] else ""
        ) + f"s{r['statement']}?"
        prompt = f"<|user|>{content}<|end|><|assistant|>"
        with torch.no_grad():
            logits = (
                model(
                    **tokenizer(
                        prompt, return_tensors="pt", return_token_type_ids=False
                    )
                )
                .logits[0, -1]
                .double()
            )
        naive = torch.softmax(logits, 0)[
            [tokenizer.convert_tokens_to_ids(w) for w in ("agree", "disagree")]
        ]
        assert_allclose(p, naive.numpy(), rtol=1e-5)


def test_statement_means_are_means_over_contexts(world, model_and_tokenizer):
    recs = votes.examples(world, "test", seed=0)
    contexts = votes.contexts_of(recs)
    means = votes.statement_means(*model_and_tokenizer, world, contexts)
    grid = [
        {"query": "s105?", "statement": 105, "context": c, "person": i}
        for i, c in enumerate(contexts)
    ]
    assert_allclose(
        means[1], votes.vote_probs(*model_and_tokenizer, grid).mean(0), rtol=1e-5
    )
    assert_allclose(
        votes.by_statement(means, recs),
        means[[{102: 0, 105: 1, 108: 2}[r["statement"]] for r in recs]],
    )


@pytest.mark.parametrize(
    "ref, crowd, beta, agree",
    [
        (0.6, 0.8, 1.0, 0.36),  # 0.6²/0.8 = 0.45 against 0.4²/0.2 = 0.8
        (0.6, 0.5, 1.0, 9 / 13),  # an even crowd: 0.36 against 0.16
        (0.7, 0.7, 0.3, 0.7),  # the crowd itself stays
        (0.6, 0.8, 1e9, 0.6),  # beta to infinity: the reference
        (0.5, 0.8, 0.5, 1 / 17),  # 1/0.8² against 1/0.2²: 1 to 16
    ],
)
def test_optimum_by_hand(ref, crowd, beta, agree):
    got = votes.optimum(
        np.array([[ref, 1 - ref]]), np.array([[crowd, 1 - crowd]]), beta
    )
    assert_allclose(got, [[agree, 1 - agree]], rtol=1e-6)


def test_optimum_is_the_tilted_optimum_of_the_theory():
    from mipo import information

    rng = np.random.default_rng(0)
    ref, crowd = rng.dirichlet([1, 1], 20), rng.dirichlet([1, 1], 20)
    theory = information.tilted_optimum(
        ref, np.log(ref / crowd), 0.7
    )  # chosen: reference, rejected: crowd
    assert_allclose(votes.optimum(ref, crowd, 0.7), theory, rtol=1e-9)


def test_optimum_extremes_and_errors():
    tiny = np.array([[1e-300, 1 - 1e-300]])
    assert np.isfinite(votes.optimum(tiny, np.array([[0.5, 0.5]]), 0.01)).all()
    with pytest.raises(ValueError, match="beta must be positive"):
        votes.optimum(tiny, tiny, 0.0)


def test_sharpened_never_changes_the_likelier_vote():
    ref = np.random.default_rng(0).dirichlet([1, 1], 50)
    sharp = votes.sharpened(ref, 1.0)
    assert_allclose(sharp, ref**2 / (ref**2).sum(1, keepdims=True))
    assert ((sharp[:, 0] > 0.5) == (ref[:, 0] > 0.5)).all()


def test_scores_and_gains_by_hand():
    recs = [{"gold": "agree"}, {"gold": "disagree"}, {"gold": "agree"}]
    probs = np.array([[0.8, 0.2], [0.7, 0.2], [0.5, 0.5]])
    s = votes.scores(probs, recs)
    assert_allclose(s["accuracy"], [1, 0, 0.5])
    assert_allclose(s["chance"], [0.8, 0.2, 0.5])
    assert_allclose(s["log_loss"], -np.log([0.8, 0.2, 0.5]))
    assert_allclose(votes.means([probs], [recs], "chance"), [0.5])
    even = np.full((3, 2), 0.5)
    gains = votes.gain_by([np.array([0, 0, 2])], [probs], [even], [recs], count=4)
    # +0.3 - 0.3; a class without an example; 0; another, beyond the last
    assert_allclose(gains, [[0.0], [np.nan], [0.0], [np.nan]], atol=1e-12)
    assert_allclose(
        votes.gain_by([np.array([0, 1, 2])], [probs], [even], [recs], count=3),
        [[0.3], [-0.3], [0.0]],
    )
    # 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75)
    assert_allclose(
        votes.divergence(np.array([[0.5, 0.5]]), np.array([[0.2, 0.6]])),
        0.5 * np.log(4 / 3),
    )


def test_data_load_polis(mipo_data, monkeypatch):
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    recs = data.load(
        "polis", conversation="brexit-consensus", questions=1, min_votes=40
    )
    assert recs and all(
        r["gold"] in polis.REPLIES and r["query"].endswith("?") for r in recs
    )


def test_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(polis, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("MIPO_DATA", str(tmp_path / "data"))
    assert not polis.at_hand("brexit-consensus")
    for place in (tmp_path / "cache", tmp_path / "data" / "polis"):
        (place / "brexit-consensus").mkdir(parents=True)
        for file in polis.FILES[:2]:
            assert not polis.at_hand("brexit-consensus")
            (place / "brexit-consensus" / file).touch()
        assert polis.at_hand("brexit-consensus")
        assert polis.at_hand(place / "brexit-consensus")  # any export, as a folder
        (place / "brexit-consensus").rename(place / "other")
