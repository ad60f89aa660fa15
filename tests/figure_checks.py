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


def assert_readable(fig):
    """Everything that is written lies on the page, is large enough, and nothing covers another text."""
    written = letters(fig)
    page = fig.bbox.padded(1)
    assert fig.get_size_inches()[0] == 6.5
    for text, box in written:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
        assert text.get_fontsize() >= 9, text.get_text()
    boxes = [(t.get_text(), box) for t, box in written if t.get_rotation() in (0, 90)]
    for i, (name_a, a) in enumerate(boxes):
        for name_b, b in boxes[:i]:
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 0 or high <= 3, (name_a, name_b)
