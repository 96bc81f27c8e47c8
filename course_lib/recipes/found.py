"""What a search found, as JSON, Markdown, a plot and a recipe."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from course_lib.artifacts import write_bytes, write_json, write_text
from course_lib.errors import CourseError
from course_lib.recipes.budget import Budget, choose, nearest, pareto_front
from course_lib.recipes.space import Space

UNITS = {"loss": "points of F1 lost", "bytes": "bytes", "ms": "ms per sentence"}


def result(rows: Sequence[dict], failed: Sequence[dict], budget: Budget, goal: str, about: Mapping) -> dict:
    """A search's outcome.

    Args:
        rows, failed: of :func:`course_lib.recipes.search.measured` and ``failures``.
        budget, goal: what was asked for.
        about: what else belongs to it, such as machine, data and the teacher's F1.
    Returns:
        ``about`` with ``date``, ``budget``, ``goal``, ``trials`` (rows with ``front``), ``failed``, and the trial numbers ``chosen``
        and ``nearest``, None where there is none.
    Raises:
        CourseError: nothing was measured.
    """
    if not rows:
        raise CourseError("No recipe was measured." + (f" The last one that failed: {failed[-1]['error']}" if failed else ""))
    front, chosen = pareto_front(rows), choose(rows, budget, goal)
    near = None if chosen is not None else nearest(rows, budget)
    return {
        **about,
        "date": datetime.date.today().isoformat(),
        "budget": budget.limits(),
        "goal": goal,
        "trials": [{**row, "front": i in front, "kept": budget.kept(row)} for i, row in enumerate(rows)],
        "failed": list(failed),
        "chosen": None if chosen is None else rows[chosen]["trial"],
        "nearest": None if near is None else rows[near]["trial"],
    }


def row_of(found: Mapping, number: int) -> dict:
    """The trial of this number."""
    (row,) = (row for row in found["trials"] if row["trial"] == number)
    return row


def report(found: Mapping) -> str:
    """The front as a Markdown table, fastest first, with what was chosen, what failed and how it was measured."""
    names = list(found["trials"][0]["picked"])
    lines = [
        "| trial | " + " | ".join(names) + " | F1 validation | points lost | MB | ms, batch 1 |",
        "|" + " --- |" * (len(names) + 5),
    ]
    front = sorted((row for row in found["trials"] if row["front"]), key=lambda row: row["ms"])
    for row in front:
        mark = " ★" if row["trial"] == found["chosen"] else " ✓" if row["kept"] and found["budget"] else ""
        picked = " | ".join(str(row["picked"][name]) for name in names)
        lines.append(
            f"| {row['trial']}{mark} | {picked} | {row['f1']:.4f} | {row['loss']:.2f} | {row['bytes'] / 1e6:.2f} | {row['ms']:.3f} |"
        )
    asked = ", ".join(f"at most {limit:,} {UNITS[aim]}" for aim, limit in found["budget"].items()) or "none"
    lines += [
        "",
        f"The front of {len(found['trials'])} recipes of the {found['size']} in `{found['name']}`: none is beaten in all of F1, bytes and "
        f"time. Budget: {asked}. ★ chosen: the least {UNITS[found['goal']]} within it; ✓ within the budget.",
        f"On {found['data']['name']}, validation alone; the teacher has F1 {found['teacher_f1']:.4f}. Times: ONNX Runtime int8, "
        f"{found['machine']['threads']} threads, {found['machine']['cpu']}, each recipe taking turns with the teacher in int8 and brought to "
        "the moment of the first one by it.",
    ]
    lines += [f"Not tried: {row['picked']}: {row['error']}" for row in found["failed"]]
    return "\n".join(lines) + "\n"


def write_found(found: Mapping, space: Space, target: Path) -> None:
    """Write ``target`` with ``.json``, ``.md`` and ``.png``, and the chosen recipe as ``.toml``.

    Raises:
        CourseError: no recipe keeps the budget: the nearest, how far it is in each figure, and where the front is. No recipe is
            written then, and an older one is removed.
    """
    from course_lib.show.front import front_plot
    from course_lib.show.plots import png

    files = {suffix: target.with_name(f"{target.name}.{suffix}") for suffix in ("json", "md", "png", "toml")}
    write_json(files["json"], dict(found))
    write_text(files["md"], report(found))
    write_bytes(files["png"], png(front_plot(found)))
    if found["chosen"] is None:
        files["toml"].unlink(missing_ok=True)
        raise CourseError(f"{unmet(found)} The front of all that was tried is in {files['md']} and {files['png']}.")
    chosen = row_of(found, found["chosen"])
    write_text(files["toml"], space.recipe(chosen["picked"]).text)


def unmet(found: Mapping) -> str:
    """Why nothing was chosen, in words."""
    row, parts = row_of(found, found["nearest"]), []
    over = Budget(**found["budget"]).excess(row)
    for aim, limit in found["budget"].items():
        far = f"{over[aim]:.2f} points too many" if aim == "loss" else f"{over[aim]:.1%} too many"
        parts.append(f"{row[aim]:,} {UNITS[aim]} (allowed: {limit:,}; {far if over[aim] > 0 else 'kept'})")
    picked = ", ".join(f"{name} = {value}" for name, value in row["picked"].items())
    return (
        f"None of {len(found['trials'])} recipes keeps the budget. The nearest is trial {row['trial']} with {picked}: {'; '.join(parts)}. "
        "Allow more, try more recipes (--trials), or widen the space."
    )
