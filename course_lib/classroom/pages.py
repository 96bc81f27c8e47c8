"""Pages of grading: templates beside the code, everything escaped, nothing fetched when a page is opened."""

import base64
import re
from pathlib import Path

TEMPLATES = Path(__file__).parent
CODE = re.compile(r"`([^`\n]+)`")
STRESS = re.compile(r"(?<![\w*])\*(\w(?:[^*`\n]*\w)?)\*(?![\w*])")


def render(template: str, **values: object) -> str:
    """A template filled in; what is not marked as HTML is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["code"] = code
    environment.filters["points"] = lambda number: f"{number:g}"
    return environment.get_template(template).render(**values)


def code(text: str):
    """A message as HTML: escaped, with what is between backticks as code, and between asterisks stressed."""
    from markupsafe import Markup, escape

    return Markup(STRESS.sub(r"<em>\1</em>", CODE.sub(r"<code>\1</code>", str(escape(text)))))


def markdown(text: str):
    """A text of the course (never of a learner) as HTML; formulae stay as they are typed."""
    from markupsafe import Markup
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return Markup(markdown2html_mistune(text))


def picture(figure) -> str:
    """A figure of :func:`course_lib.show.figure.new_figure` as the address of a picture that is in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(figure._repr_png_()).decode()}"
