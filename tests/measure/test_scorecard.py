"""The scorecard's form, its tables, and the page that carries it anywhere."""

import base64
import copy
import datetime
import html.parser
import io
import json

import pytest
from rich.console import Console

from course_lib.machine import machine
from course_lib.measure.report import html_report
from course_lib.measure.scorecard import contender, markdown, print_scorecard, scorecard, table

NAMES = ["teacher, PyTorch fp32", "student, ORT int8", "student, ORT broken"]


def ms(one, many):
    return {"1": {"median": one, "p95": one and 2 * one}, "32": {"median": many, "p95": many and 2 * many}}


@pytest.fixture
def card():
    """A teacher, a final student, and a student that crashed."""
    f1 = {"validation": [0.9, 0.85, 0.95], "test": [0.875, 0.8, 0.93], "natural": [0.61, 0.5, 0.7]}
    low = {"validation": [0.8, 0.75, 0.85], "test": [0.81, 0.7, 0.9], "natural": None}
    difference = {"against": NAMES[0], "value": -0.065, "low": -0.1, "high": 0.012}
    entries = [
        contender(
            NAMES[0], "teacher", "pytorch", "fp32", f1=f1, bytes=90_400_000, parameters_stored=22_700_000,
            parameters_effective=22_600_000, macs_per_token=11_320_000, ms_per_sentence=ms(10.0, 4.0), peak_mib=600.5, load_s=2.5,
        ),
        contender(
            NAMES[1], "student", "onnxruntime", "int8", f1=low, bytes=16_100_000, parameters_stored=15_000_000,
            parameters_effective=15_000_000, macs_per_token=3_500_000, ms_per_sentence=ms(2.5, 0.5), peak_mib=99.0, load_s=0.1,
            final=True, difference=difference,
        ),
        contender(NAMES[2], "student", "onnxruntime", "fp32", error="ended with exit status -9: nothing on stderr"),
    ]  # fmt: skip
    data = {
        "name": "news [v2]",
        "sentences": {"train": 10, "test": 3},
        "tokens": {"train": 99, "test": 30},
        "splits": "as given",
    }
    return scorecard(7, 2, data, entries, ["Measured <with> care [in full]."])


def test_a_contender_has_every_field_and_null_where_nothing_was_measured():
    entry = contender("x", "student", "openvino", "int8")
    nothing = {"median": None, "p95": None}
    assert entry == {
        "name": "x",
        "model": "student",
        "engine": "openvino",
        "precision": "int8",
        "f1": {"validation": None, "test": None, "natural": None},
        "bytes": None,
        "parameters_stored": None,
        "parameters_effective": None,
        "macs_per_token": None,
        "ms_per_sentence": {"1": nothing, "32": nothing},
        "end_to_end_ms_per_sentence": None,
        "peak_mib": None,
        "load_s": None,
        "final": False,
        "difference": None,
        "error": None,
    }
    assert contender("x", "student", "openvino", "int8", bytes=3, error="out of memory") == {
        **entry,
        "bytes": 3,
        "error": "out of memory",
    }


def test_a_figure_the_form_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"figures \['byte', 'speed'\]: expected only .*'bytes'"):
        contender("x", "teacher", "pytorch", "fp32", byte=3, speed=1)


def test_contenders_share_nothing():
    first, second = (contender("x", "teacher", "pytorch", "fp32") for _ in range(2))
    first["f1"]["test"] = first["ms_per_sentence"]["1"]["median"] = 1
    assert second == contender("x", "teacher", "pytorch", "fp32")


def test_the_whole_form(card):
    assert list(card) == ["date", "seed", "machine", "data", "contenders", "notes"]
    assert datetime.date.fromisoformat(card["date"]) <= datetime.date.today()
    assert (card["seed"], card["machine"]) == (7, machine(2))
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_the_table_says_each_figure_once_and_speed_as_a_ratio_to_the_first(card):
    header, rows = table(card)
    assert len({*header}) == len(header) - 1, "× stands twice, for each batch size"
    assert [dict(enumerate(row)) for row in rows] == [
        dict(enumerate(row))
        for row in (
            [NAMES[0], "0.875 [0.800, 0.930]", "0.610 [0.500, 0.700]", "90.4", "11.32", "10.00 (20.00)", "1.0", "4.00", "1.0"],
            [NAMES[1] + " ★", "0.810 [0.700, 0.900]", "–", "16.1", "3.50", "2.50 (5.00)", "4.0", "0.50", "8.0"],
            [NAMES[2] + " (failed)", *["–"] * 8],
        )
    ]
    assert all(len(row) == len(header) for row in rows)


def test_without_a_first_time_there_is_no_ratio(card):
    card["contenders"][0]["ms_per_sentence"] = ms(None, None)
    _, rows = table(card)
    assert [row[6] for row in rows] == [row[8] for row in rows] == ["–"] * 3
    assert rows[1][5] == "2.50 (5.00)"


def test_markdown_is_a_table_of_equal_rows(card):
    lines = markdown(card).splitlines()
    assert len(lines) == 2 + 3 and lines[1].replace("---", "").strip("| ") == ""
    assert len({line.count("|") for line in lines}) == 1
    assert "| student, ORT int8 ★ | 0.810 [0.700, 0.900] | – |" in lines[3]


def test_the_printed_scorecard_holds_every_cell_and_note_as_it_is(card):
    screen = Console(file=io.StringIO(), width=170)
    print_scorecard(card, screen)
    text = screen.file.getvalue()
    for cell in (c for row in table(card)[1] for c in row):
        assert cell in text
    assert f"news [v2], {card['date']}" in text, "brackets in names are no markup"
    assert "Measured <with> care [in full]." in text


class Page(html.parser.HTMLParser):
    """What a page links to, and its text."""

    def __init__(self, source):
        super().__init__()
        self.links, self.text, self.tags = [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action", "poster"}]

    def handle_data(self, data):
        self.text += data


def test_the_report_is_self_contained_and_names_everything(card):
    source = html_report(card, "out/model")
    page = Page(source)
    pictures = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert page.links == pictures and len(pictures) == 2
    assert all(base64.b64decode(p.split(",")[1], validate=True).startswith(b"\x89PNG") for p in pictures)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http" not in source.replace("http-equiv", "") and "url(" not in source and "@import" not in source
    text = " ".join(page.text.split())
    for name in NAMES:
        assert name in text
    for said in (
        card["date"], card["machine"]["cpu"], "seed 7", "2 threads", "out/model", "15,000,000", "16,100,000", "600.5",
        "student, ORT broken failed: ended with exit status -9", "-6.5 points of test F1", "-10.0 to +1.2", "as given",
        "train 10, test 3", "Measured <with> care [in full].", f"torch {card['machine']['versions']['torch']}",
    ):  # fmt: skip
        assert said in text, said
    assert source.count('class="final"') == 1


def test_what_stands_in_data_is_text_not_markup(card):
    card["data"]["name"] = "<script>alert(1)</script>"
    card["contenders"][2]["error"] = "<img src=http://example.org>"
    page = Page(html_report(card, "model"))
    assert "script" not in page.tags and page.tags.count("img") == 2
    assert "<script>alert(1)</script>" in page.text and "<img src=" in page.text


def test_a_report_of_nothing_but_crashes_is_still_a_page(card):
    broken = copy.deepcopy(card)
    broken["contenders"] = [contender(n, "student", "onnxruntime", "int8", error="crashed") for n in NAMES]
    page = Page(html_report(broken, "model"))
    assert all(f"{name} failed: crashed" in page.text for name in NAMES)
