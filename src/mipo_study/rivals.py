"""The losses that chapter 9 holds against RMiPO: their published settings, what is tuned, how one run is judged.

Every rival is trained, examined and weighed alike by `compete`. Records, so that what was run once is found again.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mipo import evaluate, files
from mipo.evaluate.diversity import token_lengths
from mipo_study import labelled, runs


@dataclass(frozen=True)
class Rival:
    """One way to train: a loss of `mipo.losses`, its settings, and the keyword that is tuned beside the learning rate.

    kwargs    keywords of the loss as published; what is not named keeps the loss's own default
    knob      the keyword that its users are told to tune; "" where there is none
    options   settings of the trainer: marginal, first_token, margin_warmup
    """

    label: str
    loss: str
    kwargs: dict = field(default_factory=dict)
    knob: str = ""
    options: dict = field(default_factory=dict)

    def setting(self, factor=1.0):
        """Keywords of labelled.train, the knob at `factor` times its published value (three significant digits)."""
        moved = (
            {self.knob: float(f"{factor * self.kwargs[self.knob]:.3g}")}
            if self.knob
            else {}
        )
        return {"loss": self.loss, "loss_kwargs": self.kwargs | moved, **self.options}

    def factors(self, tried):
        """The factors worth trying: all of them where there is a knob, else only 1."""
        return list(tried) if self.knob else [1.0]


# Sources beside each loss in mipo.losses. SimPO: β 2.0 and the starting point γ/β 0.5 that its README recommends.
RIVALS = {
    "dpo": Rival("DPO", "dpo", {"beta": 0.1}, "beta"),
    "ipo": Rival("IPO", "ipo", {"tau": 0.1}, "tau"),
    "kto": Rival("KTO", "kto", {"beta": 0.1}, "beta"),
    "rdpo": Rival("R-DPO", "rdpo", {"beta": 0.1}, "beta"),
    "cpo": Rival("CPO", "cpo", {"beta": 0.1}, "beta"),
    "orpo": Rival("ORPO", "orpo", {"beta": 0.1}, "beta"),
    "simpo": Rival("SimPO", "simpo", {"beta": 2.0, "gamma": 1.0}, "gamma"),
    "simper": Rival("SimPER", "simper"),
    "alphapo": Rival("AlphaPO", "alphapo", {"beta": 2.5}, "beta"),
    "alphadpo": Rival("αDPO", "alphadpo", {"gamma0": 0.6}, "gamma0"),
    "gammapo": Rival("γ-PO", "gammapo", {"gamma0": 4.0}, "gamma0"),
    "amapo": Rival("AMaPO", "amapo", {"beta": 2.0}, "beta"),
    "rmipo": Rival("RMiPO", "rmipo", {"beta": 2.0}, "beta"),
    "rmipo-paper": Rival(
        "RMiPO, paper's γ", "rmipo", {"beta": 2.0, "convention": "paper"}, "beta"
    ),
}
# RMiPO with its mutual information taken out or changed; "constant" needs the mean γ of a run, see `constant`.
CONTROLS = {
    "none": replace(
        RIVALS["rmipo"], label="Δ instead of Δpmi", options={"marginal": "none"}
    ),
    "shuffled": replace(
        RIVALS["rmipo"],
        label="another pair's marginal",
        options={"marginal": "shuffled"},
    ),
    "constant": Rival("constant γ, same mean", "simpo"),
    "frozen": replace(
        RIVALS["rmipo"], label="base model's marginal", options={"marginal": "frozen"}
    ),
    "drop": replace(
        RIVALS["rmipo"], label="first token left out", options={"first_token": "drop"}
    ),
    "released": replace(
        RIVALS["rmipo"],
        label="first token as released",
        options={"first_token": "released"},
    ),
}
WARM = replace(RIVALS["rmipo"], label="RMiPO, warm-up", options={"margin_warmup": 0.2})
PLUGGED = {
    name: replace(RIVALS[name], label=f"{RIVALS[name].label} + γ", loss=f"{name}_decay")
    for name in ("dpo", "ipo", "kto")
}

# AlpacaEval 2, length-controlled win rate in %: Mistral-Base, Mistral-Instruct, Llama3-Base, Llama3-Instruct.
# source: README of princeton-nlp/SimPO at 005072f, v0.1. CPO is left out: there its rows repeat KTO's or IPO's.
SIMPO_TABLE = {
    "dpo": (15.1, 26.8, 18.2, 40.3),
    "ipo": (11.8, 20.3, 14.4, 35.6),
    "kto": (13.1, 24.5, 14.2, 33.1),
    "rdpo": (17.4, 27.3, 17.6, 41.1),
    "orpo": (14.7, 24.5, 12.2, 28.5),
    "simpo": (21.4, 32.1, 22.0, 44.7),
}


def constant(gamma, *, beta=2.0):
    """Setting of SimPO whose margin is γ in RMiPO's units (nats per token), to four digits: raw γ = β·γ."""
    return {
        "loss": "simpo",
        "loss_kwargs": {"beta": beta, "gamma": round(beta * gamma, 4)},
    }


def flat(name, gamma):
    """Setting of a PLUGGED loss whose γ no longer decays: every pair has the same margin."""
    setting = PLUGGED[name].setting()
    level = round(gamma, 4)
    return setting | {
        "loss_kwargs": setting["loss_kwargs"] | {"gamma_min": level, "gamma_max": level}
    }


@dataclass(frozen=True)
class Outcome:
    """What became of one run. A run that diverged answers nothing: adherence and valid are 0, the rest is unknown.

    metrics   those of labelled.train and runs.examine, and of labelled.weigh where pairs were weighed
    """

    policy: Path | None
    metrics: dict
    replies: list
    gaps: dict

    @property
    def failed(self):
        """Why the run diverged, or an empty text."""
        return self.metrics.get("failed", "")

    def log(self):
        """What each training step logged, a list of dicts; empty where the run diverged."""
        return [] if self.failed else files.read_json(self.policy.parent / "log.json")


def compete(
    run_dir,
    base,
    *,
    pairs,
    seed,
    split,
    n_people,
    setting,
    lr,
    epochs,
    batch_size,
    unseen=None,
    progress=True,
):
    """Outcome of one run: trained on `pairs`, examined on people of `split`, weighed on the pairs `unseen` if given.

    setting  keywords of labelled.train, as Rival.setting gives them; None: the base model as it is
    """
    if setting is None:
        return judge(
            run_dir,
            Path(base),
            split=split,
            n_people=n_people,
            seed=seed,
            unseen=unseen,
            progress=progress,
        )
    made = labelled.train(
        run_dir,
        base=base,
        pairs=pairs,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        **setting,
    )
    if "failed" in made.metrics:
        return Outcome(None, {**made.metrics, "adherence": 0.0, "valid": 0.0}, [], {})
    return judge(
        run_dir,
        made.path / "model",
        split=split,
        n_people=n_people,
        seed=seed,
        unseen=unseen,
        trained=made.metrics,
        progress=progress,
    )


def judge(
    run_dir, policy, *, split, n_people, seed, unseen=None, trained=None, progress=True
):
    """Outcome of a policy as it is, e.g. the base model."""
    asked = runs.examine(
        run_dir, policy, split=split, n_people=n_people, seed=seed, progress=progress
    )
    found, gaps = {**(trained or {}), **asked.metrics}, {}
    if unseen is not None:
        seen = labelled.weigh(run_dir, policy, unseen, progress=progress)
        found, gaps = found | seen.metrics, labelled.gaps(seen)
    return Outcome(
        Path(policy),
        found,
        runs.read_pairs(asked.path / "replies.jsonl").to_list(),
        gaps,
    )


def against(ours, theirs):
    """{win, tie, loss, win_or_tie} of two Outcomes on the same prompts: adherence, or -1 outside the grammar."""
    if not ours.replies:  # diverged: worse than whatever the other says
        return {"win": 0.0, "tie": 0.0, "loss": 1.0, "win_or_tie": 0.0}
    scores = [
        [row["adherence"] if row["valid"] else -1.0 for row in side.replies]
        for side in (ours, theirs)
    ]
    return evaluate.win_rate(*scores)


def longer(ours, theirs, tokenizer):
    """Tokens by which a reply is longer than the other Outcome's to the same prompt, on average; None: diverged."""
    if not ours.replies:
        return None
    mine, other = (
        token_lengths([row["reply"] for row in side.replies], tokenizer)
        for side in (ours, theirs)
    )
    return float(np.mean(mine - other))


def measures(outcomes, starts, tokenizer):
    """{measure: ([value per seed], unit)} of one method's Outcomes beside those of the base model, seed by seed.

    adherence, broken; win, tie, loss and longer against the base model's replies; and, where pairs were weighed,
    accuracy, ratio-accuracy, chosen-drift, rejected-drift. What a diverged run does not have is left out.
    """
    won = [against(ours, theirs) for ours, theirs in zip(outcomes, starts, strict=True)]
    found = {
        "adherence": ([o.metrics["adherence"] for o in outcomes], "of slots"),
        "broken": ([1 - o.metrics["valid"] for o in outcomes], "of replies"),
        **{
            key: ([w[key] for w in won], "of replies") for key in ("win", "tie", "loss")
        },
        "longer": (
            [longer(*pair, tokenizer) for pair in zip(outcomes, starts, strict=True)],
            "tokens",
        ),
    }
    for key in ("accuracy", "ratio_accuracy", "chosen_drift", "rejected_drift"):
        unit = "of held-out pairs" if "accuracy" in key else "nats per token"
        found[key.replace("_", "-")] = ([o.metrics.get(key) for o in outcomes], unit)
    return {key: values for key, values in found.items() if None not in values[0]}


def table(head, rows):
    """A Markdown table; cells are text."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]
    )


def best(outcomes):
    """The key whose outcomes have the highest mean adherence, {key: [Outcome, ...]}; the first of equals."""
    return max(
        outcomes,
        key=lambda key: np.mean([o.metrics["adherence"] for o in outcomes[key]]),
    )


def known(**given):
    """ValueError for a name that its table does not have; given: parameter=(names, table)."""
    for parameter, (names, entries) in given.items():
        for name in names:
            if name not in entries:
                raise ValueError(
                    f"{parameter}: there is no {name!r}; choose from {', '.join(entries)}"
                )
