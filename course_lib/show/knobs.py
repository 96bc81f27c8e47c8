"""Knobs: a picture that follows sliders, and a still one for those who only read."""

from collections.abc import Callable, Sequence
from typing import Any

from course_lib.exercises.mode import headless


def knob(draw: Callable[..., Any], still: Callable[[], Any] | None = None, **sliders: Sequence) -> None:
    """Show ``draw(**values)`` with a slider for each argument; under it, or alone where nobody can turn one, a still picture.

    Args:
        draw: returns a matplotlib figure for one setting; its keyword defaults are where the sliders start.
        still: returns the picture for readers; by default the one ``draw`` gives for its defaults.
        sliders: argument → the values it can take, in order.
    """
    import inspect

    from IPython.display import display

    still = still or draw
    if headless():
        display(still())
        return
    import ipywidgets as widgets

    start = {name: inspect.signature(draw).parameters[name].default for name in sliders}
    controls = {
        name: widgets.SelectionSlider(
            options=list(values),
            value=start[name],
            description=name.replace("_", " "),
            continuous_update=False,
            style={"description_width": "8em"},
            layout={"width": "28em"},
        )
        for name, values in sliders.items()
    }
    picture = widgets.Output()

    def redraw(_=None) -> None:
        figure = draw(**{name: control.value for name, control in controls.items()})
        picture.clear_output(wait=True)
        with picture:
            display(figure)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    display(widgets.VBox([*controls.values(), picture]))
    if still is not draw:
        display(still())
