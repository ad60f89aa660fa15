"""How long a run has taken, and what is left of it by the forecast."""

from mipo import cache
from mipo_study.hub.budget import STEPS


class Meter:
    """Minutes that the records of this process have taken, and what is left, by the forecasts' shares of what is done.

    forecasts   {step: minutes} of each data set, see `minutes`; only their ratios count, so any card's will do
    """

    def __init__(self, forecasts):
        self.minutes, self.done = dict.fromkeys(STEPS, 0.0), 0.0
        for one in forecasts:
            for step, m in one.items():
                self.minutes[step] += m

    def after(self, step, minutes=None):
        """Notes that `minutes` of a step's forecast (None: all) are done, and the steps before it; returns itself."""
        self.done = sum(self.minutes[s] for s in STEPS[: STEPS.index(step)])
        self.done += self.minutes[step] if minutes is None else minutes
        return self

    def __str__(self):
        spent = cache.covered(cache.USED.values()) / 60
        left = (
            f", about {spent * (sum(self.minutes.values()) / self.done - 1):.1f} to go"
            if self.done
            else ""
        )
        return f"{spent:.1f} minutes so far{left}"
