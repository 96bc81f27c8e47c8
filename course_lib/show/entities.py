"""Entities in a sentence, highlighted; and a box to type one's own sentence into."""

import html
from collections.abc import Callable, Sequence

from course_lib.exercises.mode import headless

FILLS = ("#cfe8f7", "#fbe3c0", "#cdeee2", "#f3dcea", "#fff7b8")  # pale Okabe & Ito; the type is written beside each entity


def highlight(text: str, records: Sequence[dict], kinds: Sequence[str]) -> str:
    """A text as HTML with its entities marked, each followed by its type.

    Args:
        text: what was read.
        records: of :func:`course_lib.ner.predict.predict_text`, whose ``start`` and ``end`` count characters of ``text``.
        kinds: all types the model knows; a type keeps its colour whatever else is in the text.
    """
    pieces, at = [], 0
    for entity in (e for record in records for e in record["entities"]):
        fill = FILLS[list(kinds).index(entity["type"]) % len(FILLS)]
        pieces.append(html.escape(text[at : entity["start"]]))
        label = f'<span style="font-size:70%;font-weight:600;padding-left:.4em">{html.escape(entity["type"])}</span>'
        words = html.escape(text[entity["start"] : entity["end"]])
        pieces.append(f'<mark style="background:{fill};color:#111;padding:.1em .3em;border-radius:.3em">{words}{label}</mark>')
        at = entity["end"]
    pieces.append(html.escape(text[at:]))
    return f'<div class="course-entities" style="line-height:2;max-width:46em">{"".join(pieces)}</div>'


def entity_box(find: Callable[[str], Sequence[dict]], kinds: Sequence[str], text: str) -> None:
    """A text field whose entities are marked as soon as one presses Enter; only the marked text where nobody can type.

    Args:
        find: text → records with its entities.
        kinds: types of entities.
        text: what is in the field at first.
    """
    from IPython.display import HTML, display

    if headless():
        display(HTML(highlight(text, find(text), kinds)))
        return
    import ipywidgets as widgets

    field = widgets.Text(
        value=text, placeholder="a sentence with names in it", continuous_update=False, layout={"width": "46em"}
    )
    shown = widgets.HTML(highlight(text, find(text), kinds))

    def renew(change: dict) -> None:
        shown.value = highlight(change["new"], find(change["new"]), kinds)

    field.observe(renew, names="value")
    display(widgets.VBox([field, shown]))
