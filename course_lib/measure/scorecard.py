"""The scorecard: figures of every contender in one JSON form, saved and printed."""

import datetime

from course_lib.machine import machine

COLUMNS = ("name", "model", "engine", "precision")


def contender(name: str, model: str, engine: str, precision: str, **figures: object) -> dict:
    """One entry of a scorecard, every field present; what was not measured is null.

    Args:
        name: unique in the scorecard.
        model: ``"teacher"`` or ``"student"``.
        engine: ``"pytorch"``, ``"onnxruntime"`` or ``"openvino"``.
        precision: ``"fp32"``, ``"bf16"``, ``"int8"`` …
        figures: any of the fields below.
    Raises:
        ValueError: a field the form does not have.
    """
    entry = {
        "name": name, "model": model, "engine": engine, "precision": precision,
        "f1": {"validation": None, "test": None, "natural": None},
        "bytes": None, "parameters_stored": None, "parameters_effective": None, "macs_per_token": None,
        "ms_per_sentence": {"1": {"median": None, "p95": None}, "32": {"median": None, "p95": None}},
        "end_to_end_ms_per_sentence": None, "peak_mib": None, "load_s": None, "final": False, "difference": None, "error": None,
    }  # fmt: skip
    unknown = set(figures) - set(entry)
    if unknown:
        raise ValueError(f"figures {sorted(unknown)}: expected only {sorted(entry)}")
    return {**entry, **figures}


def scorecard(seed: int, threads: int, data: dict, contenders: list[dict], notes: list[str]) -> dict:
    """The whole form: date, seed, machine, data, contenders, and notes on how the figures were taken."""
    return {
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "machine": machine(threads),
        "data": data,
        "contenders": contenders,
        "notes": notes,
    }


def _interval(value: list[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def table(card: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a scorecard for printing; speed also as a ratio to the first contender."""
    header = ["contender", "F1 test", "F1 natural", "MB", "million MACs / token", "ms, batch 1 (p95)", "×", "ms, batch 32", "×"]
    first = card["contenders"][0]["ms_per_sentence"]
    rows = []
    for c in card["contenders"]:
        ms = c["ms_per_sentence"]
        ratio = {
            b: _number(first[b]["median"] / ms[b]["median"] if ms[b]["median"] and first[b]["median"] else None, ".1f")
            for b in ms
        }
        one = "–" if ms["1"]["median"] is None else f"{ms['1']['median']:.2f} ({ms['1']['p95']:.2f})"
        name = c["name"] + (" ★" if c["final"] else "") + (" (failed)" if c["error"] else "")
        macs = _number(c["macs_per_token"] and c["macs_per_token"] / 1e6, ".2f")
        size = _number(c["bytes"] and c["bytes"] / 1e6, ".1f")
        f1 = [_interval(c["f1"]["test"]), _interval(c["f1"]["natural"])]
        rows.append([name, *f1, size, macs, one, ratio["1"], _number(ms["32"]["median"], ".2f"), ratio["32"]])
    return header, rows


def markdown(card: dict) -> str:
    """The scorecard as a Markdown table, as the README shows it."""
    header, rows = table(card)
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines) + "\n"


def print_scorecard(card: dict, console) -> None:
    """Print a scorecard as a Rich table, with its notes."""
    from rich.table import Table
    from rich.text import Text

    header, rows = table(card)
    grid = Table(title=Text(f"{card['data']['name']}, {card['date']}"), title_justify="left")
    for i, cell in enumerate(header):
        grid.add_column(cell, justify="left" if i == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    for note in card["notes"]:
        console.print(note, style="dim", markup=False)
