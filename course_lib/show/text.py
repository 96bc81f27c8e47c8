"""Prose that holds measured numbers: rendered from results, never typed."""


def prose(text: str) -> None:
    """Show Markdown below a cell; without a notebook, print it.

    Args:
        text: Markdown, usually an f-string with what was just measured in it.
    """
    from IPython.display import Markdown, display

    class Prose(Markdown):
        def __repr__(self) -> str:
            return self.data

    display(Prose(text))
