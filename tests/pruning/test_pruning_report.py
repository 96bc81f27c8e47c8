"""What a transform prints about itself."""

from course_lib.pruning.report import Report


def test_a_report_says_the_saving_what_changed_and_what_was_skipped():
    report = Report(2_000_000, 1_500_000, ["layer.0: dropped", "layer.2: dropped"], ["layer.1: frozen"])
    assert str(report).split("\n") == [
        "2,000,000 → 1,500,000 parameters (−25.0%)",
        "layer.0: dropped",
        "layer.2: dropped",
        "skipped: layer.1: frozen",
    ]


def test_reports_share_no_lists():
    a, b = Report(2, 1), Report(2, 1)
    a.changed.append("x")
    assert b.changed == [] and str(b) == "2 → 1 parameters (−50.0%)"
