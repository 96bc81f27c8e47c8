"""Figures that a notebook shows by themselves, without pyplot and its global state."""

import io


def new_figure(width: float = 7.2, height: float = 4.0):
    """An empty matplotlib figure of so many inches that a notebook shows as a picture.

    Unlike pyplot's figures it is known nowhere else: it goes when the last name for it goes, and no style leaks into it.
    """
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
            return buffer.getvalue()

    return Plot(figsize=(width, height), layout="constrained")


def plain_ticks(*axes) -> None:
    """Label logarithmic axes with plain numbers at 1, 2 and 5 of each power of ten: 0.5, 1, 2, not 10⁰.

    Args:
        axes: ``figure.axes[0].xaxis`` and the like, already logarithmic.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
