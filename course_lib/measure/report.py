"""The scorecard as one self-contained HTML page with its plots."""

import base64
from pathlib import Path

from course_lib.measure.scorecard import table
from course_lib.show.plots import f1_against_bytes, f1_against_latency, png

TEMPLATE = Path(__file__).parent / "report.html.j2"


def html_report(card: dict, model_folder: str) -> str:
    """Render a scorecard; pictures are embedded, nothing is fetched when the page is opened.

    Args:
        card: a scorecard.
        model_folder: where the shipped model is, for the line that shows how to use it.
    """
    import jinja2

    header, rows = table(card)
    pictures = {title: base64.b64encode(png(make(card))).decode() for title, make in _PLOTS.items()}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(card=card, header=header, rows=rows, pictures=pictures, model_folder=model_folder)


_PLOTS = {"F1 against bytes": f1_against_bytes, "F1 against latency": f1_against_latency}
