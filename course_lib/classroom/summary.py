"""What an instructor reads first: how the class did, exercise by exercise, what was misunderstood, and whom to look at."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from course_lib.classroom.feedback import message_for, page_name
from course_lib.classroom.gradebook import Row
from course_lib.classroom.pages import picture, render
from course_lib.classroom.results import ExerciseResult, Result
from course_lib.show.figure import new_figure

SHOWN = 20  # misconceptions
GROUPS = {  # what is counted together, from full points to none
    "solved": ("solved",),
    "partial": ("partial",),
    "wrong": ("wrong", "crashed", "timed out", "refused"),
    "blank": ("not attempted", "missing"),
}
LOOKS = {  # colours of Okabe & Ito, and hatches for those who print in grey
    "solved": ("#0072B2", "", "solved"),
    "partial": ("#56B4E9", "//", "partly right"),
    "wrong": ("#D55E00", "xx", "not right"),
    "blank": ("#DDDDDD", "", "not attempted"),
}


def summary_page(table: Sequence[Row], results: Sequence[Result], part: str, most: float, about: Mapping[str, object]) -> str:
    """The page about a class.

    Args:
        table: the gradebook's rows.
        results: of the class.
        part: its name.
        most: points that the part is worth.
        about: version, engine, tier and seed of the run.
    """
    listed, known = by_exercise(results), misconceptions(results)
    return render(
        "summary.html.j2",
        part=part, rows=table, count=len(results), of=most, waiting=sum(r.waiting for r in table), exercises=listed,
        median=statistics.median([r.total for r in table]) if table else 0.0, totals=picture(totals_plot(table, most)),
        verdicts=picture(verdicts_plot(listed)), misconceptions=known[:SHOWN], more=known[SHOWN:],
        flagged=[r for r in table if r.flags],
        pages={r.student: page_name(r.student) for r in table}, about=about,
    )  # fmt: skip


def by_exercise(results: Sequence[Result]) -> list[dict]:
    """For each exercise, in the order of the part: how many answers of each kind, and their mean points."""
    found: dict[str, list[ExerciseResult]] = {}
    for result in sorted(results, key=lambda r: r.lesson):
        for e in result.exercises:
            found.setdefault(e.id, []).append(e)
    return [
        {
            "id": name,
            "count": len(answers),
            "of": answers[0].max_points,
            "mean": statistics.fmean(a.points for a in answers),
            **{group: sum(a.verdict in verdicts for a in answers) for group, verdicts in GROUPS.items()},
        }
        for name, answers in found.items()
    ]


def misconceptions(results: Sequence[Result]) -> list[dict]:
    """Known mistakes, the most common first."""
    found = [e for r in results for e in r.exercises if e.misconception]
    said = {(e.id, e.misconception): message_for(e, 0) for e in found}
    counted = Counter((e.id, e.misconception) for e in found)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [{"exercise": e, "name": m, "count": count, "message": said[e, m]} for (e, m), count in ranked]


def totals_plot(table: Sequence[Row], most: float):
    """How many students have how many points, in ten steps."""
    figure = new_figure(7.2, 2.6)
    axes = figure.subplots()
    axes.hist([r.total for r in table], bins=[most * i / 10 for i in range(11)], color="#0072B2", edgecolor="white")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=f"points, of {most:g}", ylabel="students", title="Points of the class", xlim=(0, most))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def verdicts_plot(listed: Sequence[Mapping]):
    """The share of each verdict, a bar for each exercise, the first on top."""
    figure = new_figure(7.2, 1.2 + 0.34 * len(listed))
    axes = figure.subplots()
    names, left = [e["id"] for e in listed], [0.0] * len(listed)
    for group, (colour, hatch, label) in LOOKS.items():
        widths = [100 * e[group] / e["count"] for e in listed]
        axes.barh(names, widths, left=left, color=colour, hatch=hatch, edgecolor="white", label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="% of the notebooks handed in", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(LOOKS), frameon=False, fontsize=9)
    return figure
