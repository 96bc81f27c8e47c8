"""What each method costs and gains on the real encoder, in one table: less redundancy, cheaper training, parallel training."""

from collections.abc import Mapping, Sequence

HEADS = {
    "redundancy": ["method", "strength", "F1 validation", "points", "MB", "million MACs / token", "times as fast", "s"],
    "training": ["training", "F1 validation", "s", "peak MiB", "steps skipped"],
    "parallel": ["training", "workers × threads", "s per step", "peak MiB of a worker", "MiB sent", "messages"],
}
TITLES = {
    "redundancy": "Less redundancy: the fine-tuned teacher changed, without and with a short training",
    "training": "Cheaper training: the same model, batches and rates",
    "parallel": "Parallel training: one step on one batch, by workers on the same machine",
}

NOTES = {
    "redundancy": "Corpus {data}, F1 on validation; speed in PyTorch, batches of 32, in turns with the teacher; seconds with any training.",
    "training": "{sentences} sentences of {data}, {epochs} epochs, batches of 16; peak: live tensor bytes of a step.",
    "parallel": "16 sentences of up to 64 pieces. Workers share one machine's cores.",
}


def redundancy_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.redundancy_runs.run`; the first is what the others are compared with."""
    first = rows[0]["f1"]["validation"][0]
    cells = []
    for row in rows:
        if row.get("error"):
            cells.append([row["method"], row["strength"], f"failed: {row['error']}", *["–"] * 5])
            continue
        f1 = row["f1"]["validation"]
        cells.append(
            [
                row["method"] + (", then trained" if row["name"].endswith("+recovery") else ""),
                row["strength"],
                f"{f1[0]:.3f}",
                f"{100 * (f1[0] - first):+.1f}" if row is not rows[0] else "–",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['macs_per_token'] / 1e6:.2f}",
                f"{row['speed']:.2f}",
                f"{row['seconds']:.0f}",
            ]
        )
    return cells


def training_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.precision_runs.compare`."""
    return [
        [row["way"], f"{row['score']:.3f}", f"{row['seconds']:.0f}", f"{row['peak_bytes'] / 2**20:.0f}", str(row["skipped"])]
        for row in rows
    ]


def parallel_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.parallel_runs.rows`."""
    largest = lambda values, form: format(max(values), form)  # noqa: E731
    return [
        [
            row["way"], f"{row['workers']} × {row['threads']}", f"{row['seconds_per_step']:.2f}", largest(row["peak_mib"], ".0f"),
            largest(row["mib_sent"], ".1f"), largest(row["messages"], "d"),
        ]
        for row in rows
    ]  # fmt: skip


CELLS = {"redundancy": redundancy_rows, "training": training_rows, "parallel": parallel_rows}


def markdown(table: Mapping) -> str:
    """The parts that were measured, each with when and where, for people."""
    lines = []
    for part in (name for name in HEADS if name in table):
        measured = table[part]
        machine = measured["machine"]
        lines += [f"### {TITLES[part]}", ""]
        cells = [HEADS[part], ["---"] * len(HEADS[part]), *CELLS[part](measured["rows"])]
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        where = f"{measured['date']}, seed {measured['seed']}, {machine['cpu']}, {machine['threads']} thread(s)"
        lines += ["", NOTES[part].format(**measured) + f" {where}.", ""]
    return "\n".join(lines)
