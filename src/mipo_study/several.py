"""Several runs at a time, each found again by its name: what the chapters that train do with the functions of `runs`."""

from mipo_study.runs import side_by_side


def every(function, wanted, *, workers=2, progress=True):
    """{name: function(**keywords)} of {name: keywords}, made `workers` at a time; what was made before is found.

    function   one that keeps what it makes as a record and takes `progress`; runs side by side show no bars (`side_by_side`)
    """
    side_by_side(function, list(wanted.values()), workers=workers)
    return {
        name: function(**keywords, progress=progress)
        for name, keywords in wanted.items()
    }
