"""What is written in a figure, and where."""

from matplotlib.text import Text


def letters(fig):
    """(text, box) of all that is written in the figure; ticks outside the limits are not drawn and not listed."""
    fig.canvas.draw()
    hidden = {
        id(label)
        for ax in fig.axes
        for axis in (ax.xaxis, ax.yaxis)
        for minor in (False, True)
        for place, label in zip(
            axis.get_ticklocs(minor=minor),
            axis.get_ticklabels(minor=minor),
            strict=False,
        )
        if not min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    }
    return [
        (t, t.get_window_extent())
        for t in fig.findobj(Text)
        if t.get_text().strip() and t.get_visible() and id(t) not in hidden
    ]
