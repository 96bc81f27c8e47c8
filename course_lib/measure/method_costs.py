"""What each method costs and gains, in one table: less redundancy, cheaper training, parallel training, losses in each precision."""

from collections.abc import Mapping, Sequence

HEADS = {
    "redundancy": ["method", "strength", "F1 validation", "points", "MB", "million MACs / token", "peak MiB", "times as fast", "s"],
    "training": ["training", "F1 validation", "s", "peak MiB", "MB trained", "MB stored", "steps skipped"],
    "parallel": ["training", "workers × threads", "s per step", "peak MiB of a worker", "MiB sent", "messages"],
    "curves": ["task", "training", "last loss", "validation", "steps", "steps skipped", "gradients underflowed"],
}  # fmt: skip
TITLES = {
    "redundancy": "Less redundancy: the fine-tuned teacher changed, without and with a short training",
    "training": "Cheaper training: the same encoder and batches; LoRA and adapters learn at ten times the others' rate",
    "parallel": "Parallel training: one step on one batch, by workers on the same machine",
    "curves": "Losses in each precision: the same model, batches and rates",
}

NOTES = {
    "redundancy": "Corpus {data}, F1 on validation; speed in PyTorch, batches of 32, in turns with the teacher; seconds with any training. "
    "Peak: live tensor bytes of the longest such batch.",
    "training": "{sentences} sentences of {data}, {epochs} epochs, batches of 16; peak: live tensor bytes of a step. Trained: the weights "
    "that learn, which is what one more task adds; stored: all weights as they are trained, those of the encoder among them.",
    "parallel": "16 sentences of up to 64 pieces. Workers share one machine's cores.",
    "curves": "The digits' perceptron for {digits_epochs} epochs in batches of 64; the encoder for {epochs} epochs on {sentences} sentences "
    "of {data} in batches of 16.{left_out} Last loss: the mean of the last epoch. Underflowed: of the entries of a gradient that are not 0 "
    "in fp32, those that are 0 in this precision and at this loss scale, after training. Drawn in costs_losses.png.",
}
LEFT_OUT = " It is not trained in fp16: this processor has no products of fp16, and a step takes many times as long."


def redundancy_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.redundancy_runs.run`; the first is what the others are compared with."""
    first = rows[0]["f1"]["validation"][0]
    cells = []
    for row in rows:
        if row.get("error"):
            cells.append([row["method"], row["strength"], f"failed: {row['error']}", *["–"] * (len(HEADS["redundancy"]) - 3)])
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
                f"{row['peak_bytes'] / 2**20:.0f}" if row.get("peak_bytes") else "–",
                f"{row['speed']:.2f}",
                f"{row['seconds']:.0f}",
            ]
        )
    return cells


def training_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.precision_runs.compare`: fp32 gradients are as large as the weights that learn."""
    return [
        [
            row["way"] + (f", rate × {row['rate']:g}" if row.get("rate", 1) != 1 else ""), f"{row['score']:.3f}",
            f"{row['seconds']:.0f}", f"{row['peak_bytes'] / 2**20:.0f}", _megabytes(row, "gradients"), _megabytes(row, "weights"),
            str(row["skipped"]),
        ]
        for row in rows
    ]  # fmt: skip


def _megabytes(row: Mapping, part: str) -> str:
    """All bytes of a part of the account of a training step, in MB."""
    sizes = [entry["bytes"] for entry in row.get("account", ()) if entry["part"] == part]
    return f"{sum(sizes) / 1e6:.1f}" if sizes else "–"


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


def curve_rows(rows: Sequence[Mapping]) -> list[list[str]]:
    """Cells of rows of :func:`course_lib.measure.precision_runs.curves`."""
    return [
        [
            row["task"], row["way"], f"{row['loss']:.2g}", f"{row['score']:.3f} ({row['metric'].removeprefix('validation ')})",
            str(row["steps"]), str(row["skipped"]), f"{row['underflow']:.2%}",
        ]
        for row in rows
    ]  # fmt: skip


CELLS = {"redundancy": redundancy_rows, "training": training_rows, "parallel": parallel_rows, "curves": curve_rows}


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
