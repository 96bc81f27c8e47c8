"""The small card under a check: HTML where there is HTML, plain text elsewhere. Nothing goes to standard error."""

import html
import re

MARKS = {"passed": "✔", "wrong": "✘", "not attempted": "…", "note": "•", "hint": "?"}
COLOURS = {"passed": "#0b6e4f", "wrong": "#a63d00", "not attempted": "#5a5a5a", "note": "#0072b2", "hint": "#0072b2"}
STRESSED = re.compile(r"(?<![\d*)])\*(?=[^\W\d])([^*]+)(?<=\w)\*(?![\w*])")  # *so*, but not 2*x*3


class Card:
    """A title and a few lines, shown by ``display``.

    Args:
        state: ``passed``, ``wrong``, ``not attempted``, ``note`` or ``hint``; colour and mark, never colour alone.
        title: one short line.
        lines: paragraphs; what is between backquotes is set as code, what is between asterisks is
            stressed.
    """

    def __init__(self, state: str, title: str, lines: list[str] | None = None) -> None:
        self.state, self.title, self.lines = state, title, list(lines or [])

    def __repr__(self) -> str:
        return "\n".join([f"{MARKS[self.state]} {self.title}", *(f"  {line}" for line in self.lines)])

    def _repr_html_(self) -> str:
        colour = COLOURS[self.state]
        body = "".join(f'<div style="margin-top:.35em">{_inline(line)}</div>' for line in self.lines)
        return (
            f'<div class="course-card" style="border-left:4px solid {colour};padding:.4em .8em;margin:.3em 0;max-width:46em;line-height:1.45">'
            f'<div style="color:{colour};font-weight:600">{MARKS[self.state]} {_inline(self.title)}</div>{body}</div>'
        )

    def show(self) -> None:
        """Put the card into the notebook, or print it where there is none."""
        from IPython.display import display

        display(self)


def _inline(text: str) -> str:
    """HTML of a line: what is between backquotes is code, what is between asterisks is stressed, and nothing else is markup."""
    pieces = html.escape(text, quote=False).replace("\n", "<br>").split("`")
    if len(pieces) % 2 == 0:  # an odd backquote is a character
        pieces[-2:] = ["`".join(pieces[-2:])]
    return "".join(f"<code>{p}</code>" if i % 2 else STRESSED.sub(r"<em>\1</em>", p) for i, p in enumerate(pieces))
