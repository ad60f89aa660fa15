"""What chapter 15 compares: policies by (model, data set), arm and seed, their replies, and the tables made of them."""

import numpy as np

from mipo_study.figures import style
from mipo_study.hub import answers, benchmarks, runs, scores

# {key of `scores.measure`: (title of a panel, unit)}, {key of `answers.grades`: name of the number}
PEOPLE = {
    "pmi": ("conditional PMI, own model (nats)", "nats per reply"),
    "pmi_base": ("conditional PMI, base model (nats)", "nats per reply"),
    "retrieval": ("retrieval, own model (share)", "of replies"),
    "retrieval_base": ("retrieval, base model (share)", "of replies"),
    "self_bleu": ("self-BLEU (0 to 100)", "points of 100"),
}
READINGS = {
    "right": "accuracy",
    "any form": "accuracy-any-form",
    "released": "accuracy-released",
}
TASTE = {
    "position": "position bias",
    "agreement": "same verdict in both orders",
    "length": "decided for the longer",
    "longer": "longer than the other",
    "unformed": "out of form",
    "released": "rated at least as the reference",
    "released_base": "the base model's so rated",
}


class Study:
    """The policies of some sets and what they replied. A set s is a (model, data set) pair; "base" is the model itself.

    work    {(s, seed): benchmarks.Data}
    places  {model: hub.Place}, filled by who has them
    tuned   {(s, arm, seed): Record} of the training runs that ended well, likewise
    said    {(s, arm, seed): Record} of replies, from `answer`
    What is found for each policy has the form {(s, arm): {seed: ...}}, and a gain {(s, arm): (value, low, high)}.
    """

    def __init__(self, run_dir, work, *, shots=8):
        self.run_dir, self.work, self.shots = run_dir, work, shots
        self.sets = list(dict.fromkeys(s for s, _ in work))
        self.places, self.tuned, self.said = {}, {}, {}

    # ---- who there is, and what they say ----

    def label(self, s, arm):
        """What a policy is called: its arm, and where several sets are compared its model and data set, too."""
        return style.arm_label(arm) + (
            f", {short(s[0])}, {short(s[1])}" if len(self.sets) > 1 else ""
        )

    def slug(self, s, *words):
        """The name of a number: words, and where several sets are compared its model and data set, too."""
        own = (
            [short(part).lower().replace(".", "_") for part in s]
            if len(self.sets) > 1
            else []
        )
        return "-".join([*words, *own])

    def policy(self, s, arm, seed):
        return self.places[s[0]] if arm == "base" else self.tuned[s, arm, seed]

    def rows(self, s, seed):
        return self.work[s, seed].test

    def asked(self, s, seed, part="test"):
        return runs.as_examples(
            getattr(self.work[s, seed], part), self.work[s, seed].kind, self.shots
        )

    def replies(self, s, arm, seed):
        return runs.read_replies(self.said[s, arm, seed])

    def policies(self, kind=""):
        """(s, arm, seed) of every policy there is, the base model first; of one kind of data set, or of all."""
        return [
            (s, arm, seed)
            for s in self.sets
            if kind in ("", benchmarks.kind_of(s[1]))
            for arm in (
                "base",
                *dict.fromkeys(a for where, a, _ in self.tuned if where == s),
            )
            for where, seed in self.work
            if where == s and (arm == "base" or (s, arm, seed) in self.tuned)
        ]

    def answer(self, sampling, **how):
        """Every policy replies to its test prompts, with the settings `sampling[s]` of its set."""
        for s, arm, seed in self.policies():
            self.said[s, arm, seed] = runs.make_replies(
                self.run_dir,
                self.policy(s, arm, seed),
                self.asked(s, seed),
                seed=seed,
                sampling=sampling[s],
                **how,
            )

    def each(self, kind, look, *, base=True):
        """{(s, arm): {seed: look(s, arm, seed)}} over the policies of one kind of data set ("": all)."""
        found = {}
        for s, arm, seed in self.policies(kind):
            if base or arm != "base":
                found.setdefault((s, arm), {})[seed] = look(s, arm, seed)
        return found

    def duels(self, look):
        """{(s, rival): {seed: look(s, rival, seed)}} where RMiPO ended well on that seed, too."""
        found = {}
        for s, arm, seed in self.policies("preferences"):
            if arm != "rmipo" and (s, "rmipo", seed) in self.tuned:
                found.setdefault((s, arm), {})[seed] = look(s, arm, seed)
        return found

    # ---- gains ----

    def gain(self, after, before, s, look=scores.paired):
        """`scores.paired`, or `relative`, of {seed: values} on the test rows of a set."""
        return look(after, before, {seed: self.rows(s, seed) for seed in after})

    def net_wins(self, verdicts):
        """Strict wins less losses of {pair: {seed: Record}}, each as a share of the items."""
        found = {
            pair: {seed: scores.verdicts_of(r) for seed, r in kept.items()}
            for pair, kept in verdicts.items()
        }
        gains = {
            pair: self.gain(kept, {seed: 0 * v for seed, v in kept.items()}, pair[0])
            for pair, kept in found.items()
        }
        return {pair: g for pair, g in gains.items() if g}

    def released_gain(self, verdicts):
        """Gain in the papers' win rate, as a share of the base's, where replies were rated and the base wins some."""
        gains = {}
        for pair, kept in verdicts.items():
            if all("released" in r.metrics for r in kept.values()):
                after, before = (
                    {seed: scores.verdicts_of(r, key) for seed, r in kept.items()}
                    for key in ("released", "released_base")
                )
                gains[pair] = self.gain(after, before, pair[0], scores.relative)
        return {pair: g for pair, g in gains.items() if g}

    def accuracy_gain(self, graded, key, look=scores.paired):
        """{(s, arm): gain} of `answers.grades`, arm against base, item by item; with `relative`, of its accuracy."""

        def side(pair):
            return {seed: grades[key] for seed, grades in graded[pair].items()}

        gains = {
            pair: self.gain(side(pair), side((pair[0], "base")), pair[0], look)
            for pair in graded
            if pair[1] != "base"
        }
        return {pair: g for pair, g in gains.items() if g}

    # ---- numbers, parts of claims, what figures draw ----

    def pick(self, found, key):
        """One metric of {pair: {seed: metrics}}, a list of it by its mean."""
        return {
            pair: {seed: float(np.mean(m[key])) for seed, m in kept.items()}
            for pair, kept in found.items()
        }

    def note(self, nb, name, found, unit):
        """Keep a number of the notebook for each pair: its values by seed, or a gain with its interval."""
        for (s, arm), value in found.items():
            by_seed = isinstance(value, dict)
            nb.number(
                self.slug(s, name, arm),
                list(value.values()) if by_seed else value[0],
                unit,
                interval=None if by_seed else value[1:],
            )

    def parts(self, what, found, region, unit, *, mipo=True):
        """Parts of a claim from gains, or lists by seed. Of a claim about MIPO only its own arms are evidence."""
        return {
            f"{self.label(s, arm)}: {what}": {"region": region, "unit": unit}
            | (
                {"values": v}
                if isinstance(v, list)
                else {"value": v[0], "interval": v[1:]}
            )
            for (s, arm), v in found.items()
            if arm.startswith("mipo") or not mipo
        }

    def labelled(self, found):
        """{label: [value per seed]} of {pair: {seed: value}}."""
        return {self.label(*pair): list(kept.values()) for pair, kept in found.items()}

    def shares(self, verdicts):
        """{label: mean metrics} of {pair: {seed: Record}}, for `world.win_tie_loss`."""
        return {self.label(*pair): means(kept) for pair, kept in verdicts.items()}

    def errors(self, graded):
        """{label: {kind of error: share of items}} of `answers.grades`, for `runs.error_types`."""
        return {
            self.label(*pair): {
                e: float(np.mean([k == e for g in kept.values() for k in g["error"]]))
                for e in answers.ERRORS
            }
            for pair, kept in graded.items()
        }

    # ---- tables and sentences, in Markdown ----

    def overlaps(self):
        """{s: [answers.overlap per seed]} of the wordings of test and training part."""
        found = {}
        for (s, _), data in self.work.items():
            texts = [
                [benchmarks.wording(r) for r in rows]
                for rows in (data.train, data.test)
            ]
            found.setdefault(s, []).append(answers.overlap(*texts))
        return found

    def data_table(self, shared):
        """The data of each set's first seed, and how much of its test part was trained on (see `overlaps`); then items whose
        gold answer is known to be wrong."""
        lines = [
            "| data set | commit | train | test | dropped | same prompt | eight words |",
            "|---" * 7 + "|",
        ]
        for s, found in shared.items():
            data = next(data for (where, _), data in self.work.items() if where == s)
            same, phrases = (
                f"{np.mean([o[k] for o in found]):.1%}" for k in ("same", "phrases")
            )
            lines.append(
                f"| {short(s[1])} | {data.source.get('commit', '')[:12] or 'local files'} | {len(data.train)} | "
                f"{len(data.test)} | {data.source.get('dropped', 0)} | {same} | {phrases} |"
            )
        return "\n".join(lines + [f"\n{line}" for line in self.known_wrong()])

    def known_wrong(self):
        """A sentence for each item drawn whose gold answer is known to be wrong, with the part and the seeds it is in."""
        drawn = {
            (s[1], row.get("source_id"), part, seed)
            for (s, seed), data in self.work.items()
            for part in ("train", "test")
            for row in getattr(data, part)
        }
        lines = []
        for (name, item), why in answers.KNOWN_WRONG.items():
            for part in ("train", "test"):
                seeds = sorted(
                    seed for *one, seed in drawn if one == [name, item, part]
                )
                if seeds:
                    lines.append(
                        f"Known to be wrong, and kept since published numbers count it: {name}'s {item} ({why}); "
                        f"in the {part} part of seed {', '.join(map(str, seeds))}."
                    )
        return lines

    def training_table(self):
        lines = [
            "| method | seed | learning rate | steps | first loss | last loss | minutes | GB | "
            "update left in bfloat16 |",
            "|---" * 9 + "|",
        ]
        for (s, arm, seed), run in self.tuned.items():
            m = run.metrics
            lines.append(
                f"| {self.label(s, arm)} | {seed} | {m['lr']:g} | {m['steps']} | {m['first_loss']:.3f} | "
                f"{m['last_loss']:.3f} | {run.seconds / 60:.1f} | {text(m['peak_gb'], '.0f')} | "
                f"{text(m['kept_update'], '.0%')} |"
            )
        return "\n".join(lines)

    def own_view(self, found, chance):
        """What the policies say of themselves, from {key: {pair: {seed: value}}} of `PEOPLE`."""
        each = [
            f"{self.label(*pair)} {np.mean(list(nats.values())):.2f} nats, retrieval "
            f"{np.mean(list(found['retrieval'][pair].values())):.0%}"
            for pair, nats in found["pmi"].items()
        ]
        return (
            f"Chance of retrieval is {chance:.2f}. Self-BLEU near 100 would mean that replies are all alike. Under the "
            f"policy itself: {'; '.join(each)}."
        )

    def taste(self, verdicts, gains):
        """The judge's taste beside {pair: {seed: Record}}, and one column for each of {title: gains}."""
        lines = [
            f"| | {' | '.join([*TASTE.values(), *gains])} |",
            "|---" * (len(TASTE) + len(gains) + 1) + "|",
        ]
        for pair, kept in verdicts.items():
            m = means(kept)
            cells = [
                text(m.get(k), "+.2f" if k == "position" else ".0%") for k in TASTE
            ]
            cells += [
                "{:+.2f} [{:+.2f}, {:+.2f}]".format(*g[pair]) if pair in g else "–"
                for g in gains.values()
            ]
            lines.append(f"| {self.label(*pair)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def accuracies(self, graded, gains):
        """A line for each policy: accuracy in the three readings, and the gain over the base model in the first two."""
        lines, mean = [], {key: self.pick(graded, key) for key in READINGS}
        for pair in graded:
            right, loose, released = (
                np.mean(list(mean[key][pair].values())) for key in READINGS
            )
            line = f"- {self.label(*pair)}: right {right:.1%}, in any form {loose:.1%}, as released {released:.1%}"
            if pair in gains["right"]:
                line += "; over the base {:+.1%} [{:+.1%}, {:+.1%}], in any form {:+.1%} [{:+.1%}, {:+.1%}]".format(
                    *gains["right"][pair], *gains["any form"][pair]
                )
            lines.append(line)
        return "\n".join(lines)


def means(records):
    """{metric: mean over seeds} of {seed: Record}, NaN for a metric that no seed has a number for."""
    rows = [r.metrics for r in records.values()]
    return {
        k: float(np.mean([m[k] for m in rows if m.get(k) is not None] or [np.nan]))
        for m in rows
        for k in m
    }


def text(value, form):
    """A number, or a dash where there is none."""
    return "–" if value is None or np.isnan(value) else format(value, form)


def short(name):
    return name.rstrip("/").split("/")[-1]
