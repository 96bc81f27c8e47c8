"""``course release`` and ``course grade``: hand out a part, grade what comes back."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from course_lib.errors import CourseError


def release(
    part: Annotated[str, typer.Argument(metavar="PART", help="A part, by name or number: 1_pruning, or 1.")],
    out: Annotated[Path, typer.Option(help="Folder to make; it must not hold anything else.")],
) -> None:
    """Make the folder that students get: the part's notebooks, what to install, how to begin; no solutions.

    The library comes along as a wheel and everything it needs is pinned, so that all students have what you have.

    Example: `course release 1_pruning --out handout`
    """
    from course_lib.classroom.layout import find_root
    from course_lib.classroom.parts import find_part
    from course_lib.classroom.release import release as make

    files = make(find_root(), find_part(part), out)
    for file in files:
        print(out / file)


def grade(
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help="A part, by name or number: 1_pruning, or 1.")] = None,
    submissions: Annotated[
        Path | None, typer.Argument(metavar="[SUBMISSIONS]", help="A folder or a .zip with what students handed in.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results; made when missing, gone on with when there.")] = Path("graded"),
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, help="Draws the inputs; default: that of OUT's last run, or one that nobody knows."),
    ] = None,
    engine: Annotated[
        Literal["functions", "kernel"],
        typer.Option(
            help="`functions` runs answers alone; `kernel` also runs every cell of each notebook, which takes minutes."
        ),
    ] = "functions",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each processor.")] = None,
    backend: Annotated[Literal["local", "dask"], typer.Option(help="Where workers run: here, or on a Dask cluster.")] = "local",
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of the Dask cluster, as tcp://10.0.0.1:8786.")
    ] = None,
    gradebook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="nbgrader's gradebook to write to as well, as sqlite:///gradebook.db."),
    ] = None,
    reference_earns_nothing: Annotated[
        bool, typer.Option("--reference-earns-nothing", help="No points for answers that call the library's own function.")
    ] = False,
    unconfined: Annotated[
        bool,
        typer.Option("--unconfined", help="Run students' code with all your rights. Only for code that you have read."),
    ] = False,
    doctor: Annotated[bool, typer.Option("--doctor", help="Say how students' code can be confined here, and stop.")] = False,
) -> None:
    """Grade a class: students' functions run confined, one notebook after another; points never depend on what they print or patch.

    SUBMISSIONS may be nbgrader's `submitted/`, a folder of `student.ipynb`, a folder for each student, or the zip of Moodle or Canvas.

    Leaves in OUT: `gradebook.csv`; `summary.html` to read first; `feedback/STUDENT.html` to hand back; `open_answers.html`
    to read and `open_points.csv` to enter points of open questions in (grade again to merge them); `results.jsonl`.
    Killed and started again it goes on; a notebook that changed is graded again, and its earlier result stays in `history.jsonl`.

    Example: `course grade 1_pruning submissions.zip --out graded`
    """
    if doctor:
        _doctor()
        return
    if part is None or submissions is None:
        raise CourseError("Name the part and what was handed in, as in: course grade 1_pruning submissions.zip --out graded")
    if (backend == "dask") != (scheduler is not None):
        raise CourseError(
            "--backend dask and --scheduler ADDRESS belong together, as in --backend dask --scheduler tcp://…:8786"
        )
    from course_lib import __version__
    from course_lib.artifacts import require_writable
    from course_lib.classroom.grade_class import Settings, clear_away, grade_class, locked, seed_of
    from course_lib.classroom.graders import functions_grader, hidden_from_learners, judging_code
    from course_lib.classroom.hand_back import hand_back
    from course_lib.classroom.layout import find_root
    from course_lib.classroom.parts import asked, find_part, lessons_of, open_questions
    from course_lib.classroom.submissions import collect
    from course_lib.classroom.workers import dask, local
    from course_lib.console import bar, say
    from course_lib.machine import processors

    root, part = find_root(), find_part(part)
    lessons, questions = lessons_of(part), open_questions(root, part)
    require_writable(out)
    if gradebook:
        from course_lib.classroom.nbgrader_gradebook import require_gradebook, write_gradebook

        require_gradebook(gradebook)
    tier = "unconfined" if unconfined else _best_tier()
    if unconfined:
        say("UNCONFINED: students' code runs with all your rights; it can read, change and send whatever you can.")
    spread = partial(dask, scheduler=scheduler) if scheduler else partial(local, workers=workers or processors())
    with locked(out):
        clear_away(out)
        found = collect(submissions, part, lessons, out / "collected")
        if not found:
            raise CourseError(f"{submissions}: no notebook was found. `course grade --help` shows which layouts are known.")
        settings = Settings(seed_of(out, seed), engine, not reference_earns_nothing, tier, judging_code(lessons))
        hides = hidden_from_learners(root, submissions, out)
        opened = partial(functions_grader, asked(root, part), settings.seed, settings.reference_earns, tier, hides)
        if engine == "kernel":
            from course_lib.classroom.kernel_engine import kernel_grader

            opened = partial(kernel_grader, opened, tier, out / "executed")
        with bar("grading", sum(s.path is not None for s in found)) as advance:
            graded = grade_class(found, lessons, out, settings, opened, spread, advance)
        about = {"version": __version__, "engine": engine, "tier": tier, "seed": settings.seed}
        book = hand_back(graded.results, lessons, questions, part, out, about)
        if gradebook:
            write_gradebook(gradebook, root, part, graded.results, book.given, found)
    waiting, flagged = sum(r.waiting for r in book.rows), sum(bool(r.flags) for r in book.rows)
    print(
        f"{len(book.rows)} students, {len(graded.results)} notebooks, {graded.anew} of them graded now; {tier}, seed {settings.seed}"
    )
    print(f"{out / 'summary.html'}: read this first; {flagged} students have something for you to look at")
    print(f"{out / 'gradebook.csv'}: points; {out / 'feedback'}: a page for each student")
    if waiting:
        print(
            f"{out / 'open_answers.html'}: {waiting} open answers wait; enter points in {out / 'open_points.csv'} and grade again"
        )
    for student, lesson, why in graded.failed:
        print(f"not graded: {student}, {lesson}: {why}")
    if graded.failed:
        raise typer.Exit(1)


def _best_tier() -> str:
    """The best confinement of this system, tried before any work begins."""
    from course_lib.classroom.confine import Limits, start_server

    with start_server(Limits()) as server:
        return server.tier


def _doctor() -> None:
    from course_lib.classroom.confine import doctor as tiers

    found = dict(tiers())
    for tier, why in found.items():
        print(f"{tier:<12} {'available' if why is None else why}")
    best = next((tier for tier, why in found.items() if why is None), None)
    print(f"course grade takes {best}." if best else "Nothing confines here: course grade refuses, unless --unconfined.")
    if best is None:
        raise typer.Exit(1)
