"""What a transform prints about itself, and what it counts."""

from torch import nn

from course_lib.report import Report, Reporting, parameter_count, tensor_bytes


def test_a_report_says_the_saving_what_changed_and_what_was_skipped():
    report = Report(2_000_000, 1_500_000, 8_000_000, 3_000_000, ["layer.0: dropped", "layer.2: dropped"], ["layer.1: frozen"])
    assert str(report).split("\n") == [
        "2,000,000 → 1,500,000 parameters, 8,000,000 → 3,000,000 bytes (−62.5%)",
        "layer.0: dropped",
        "layer.2: dropped",
        "skipped: layer.1: frozen",
    ]


def test_reports_share_no_lists():
    a, b = Report(2, 1, 8, 4), Report(2, 1, 8, 4)
    a.changed.append("x")
    assert b.changed == [] and str(b) == "2 → 1 parameters, 8 → 4 bytes (−50.0%)"


def test_bytes_count_parameters_and_buffers_and_a_shared_storage_once():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    assert parameter_count(model) == 15 + 5 + 5 + 5
    assert tensor_bytes(model) == 4 * (15 + 5 + 5 + 5 + 5 + 5) + 8  # two running statistics, and an int64 counter
    tied = nn.ModuleList([nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)])
    assert tensor_bytes(tied) == 2 * 60
    tied[1].weight = tied[0].weight
    assert tensor_bytes(tied) == 60 and parameter_count(tied) == 15


def test_a_model_without_anything_is_no_division_by_zero():
    assert "−0.0%" in str(Reporting(nn.Module()).report([]))
