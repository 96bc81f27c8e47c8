"""The card under a check, as HTML and as text."""

import pytest

from course_lib.exercises.card import COLOURS, MARKS, Card


def test_a_card_has_a_mark_and_not_colour_alone():
    assert set(MARKS) == set(COLOURS) and len(set(MARKS.values())) == len(MARKS)
    for state, mark in MARKS.items():
        assert mark in repr(Card(state, "title")) and mark in Card(state, "title")._repr_html_()


def test_as_text_lines_are_indented_below_the_title():
    assert repr(Card("wrong", "title", ["one", "two"])) == "✘ title\n  one\n  two"


@pytest.mark.parametrize(
    "text, html",
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("`w[0] < 1` and `x`", "<code>w[0] &lt; 1</code> and <code>x</code>"),
        ("`2*x*y` is code", "<code>2*x*y</code> is code"),
        ("that is *not* zero", "that is <em>not</em> zero"),
        ("mega*bits*.", "mega<em>bits</em>."),
        ("2*x*3 and 2 * n * m", "2*x*3 and 2 * n * m"),
        ("a ` alone", "a ` alone"),
        ("`code` and a ` alone", "<code>code</code> and a ` alone"),
        ("line\nline", "line<br>line"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    ],
)
def test_code_and_stress_are_marked_up_and_nothing_else(text, html):
    assert f">{html}</div>" in Card("note", "title", [text])._repr_html_()


def test_a_card_is_shown_as_text_where_there_is_no_notebook(capsys):
    Card("passed", "well done").show()
    assert capsys.readouterr() == ("✔ well done\n", "")
