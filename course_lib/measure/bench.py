"""``make bench``: the library's own kernels beside well-known ones, in one run, as ratios.

Each pair does the same work on the same data and is checked to give the same result before it is timed. Pairs
take turns; medians count. Writes ``artifacts/bench.json``.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from course_lib.artifacts import write_json
from course_lib.console import bar
from course_lib.machine import machine, processors

REPEATS = 7


def median_ms(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median milliseconds of both, run in turns after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for run, kept in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            if number:
                kept.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def row(name: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int = REPEATS) -> dict:
    """One row of the table; ``ratio`` is theirs / ours, above 1 where ours is faster.

    ``ours_peak_mib`` is what Python and numpy allocate; None where all the work is in PyTorch, which they do not see.
    """
    a, b = median_ms(ours, theirs, repeats)
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return {
        "name": name,
        "ours_ms": round(a, 3),
        "theirs_ms": round(b, 3),
        "ratio": round(b / a, 3),
        "ours_peak_mib": round(peak, 2) or None,
    }


def pairs() -> list[tuple[str, Callable[[], object], Callable[[], object]]]:
    """The pairs, each with ours first; results were compared."""
    import torch
    import torch.nn.functional as F
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2
    from transformers import AutoTokenizer

    from course_lib.data.align import make_windows
    from course_lib.data.generated import generate
    from course_lib.distillation.losses import token_kd_loss
    from course_lib.models.zoo import load_tokenizer, minilm_folder
    from course_lib.ner.evaluate import counts, f1_of_counts

    sentences = generate(0, {"train": 2000, "validation": 1, "test": 1}).train
    gold = [list(s.tags) for s in sentences]
    predicted = gold[1:] + gold[:1]
    predicted = [p[: len(g)] + ["O"] * (len(g) - len(p)) for g, p in zip(gold, predicted, strict=True)]
    theirs_f1 = lambda: f1_score(gold, predicted, mode="strict", scheme=IOB2)  # noqa: E731
    ours_f1 = lambda: float(f1_of_counts(counts(gold, predicted).sum(0)))  # noqa: E731
    _same(ours_f1(), theirs_f1(), 1e-12)

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 64, 128, 9).unbind()
    mask = torch.ones(64, 128, dtype=torch.bool)
    ours_kd = lambda: token_kd_loss(student, teacher, mask, 2.0)  # noqa: E731

    def theirs_kd():
        log_q, log_p = F.log_softmax(student.flatten(0, 1) / 2, -1), F.log_softmax(teacher.flatten(0, 1) / 2, -1)
        return 4 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    _same(ours_kd().item(), theirs_kd().item(), 1e-5)

    tokenizer, theirs_tokenizer = load_tokenizer(minilm_folder()), AutoTokenizer.from_pretrained(minilm_folder())
    words = [list(s.words) for s in sentences]
    ours_pieces = lambda: make_windows(words, tokenizer)  # noqa: E731
    theirs_pieces = lambda: theirs_tokenizer(words, is_split_into_words=True, truncation=False, padding=False)  # noqa: E731
    assert [list(w.ids) for w in ours_pieces()] == theirs_pieces()["input_ids"], (
        "windows differ from the tokenizer's own pieces"
    )
    return [
        ("strict entity F1 of 2 000 sentences (seqeval)", ours_f1, theirs_f1),
        ("token KD loss, 64 × 128 × 9 (F.kl_div)", ours_kd, theirs_kd),
        ("word pieces of 2 000 sentences (transformers)", ours_pieces, theirs_pieces),
    ]


def _same(ours: float, theirs: float, tolerance: float) -> None:
    if abs(ours - theirs) > tolerance:
        raise AssertionError(f"ours {ours} and theirs {theirs} differ by more than {tolerance}: timing them would mean nothing")


def main(path: Path = Path("artifacts/bench.json"), repeats: int = REPEATS) -> dict:
    """Time all pairs, print the table, write the figures."""
    chosen, rows = pairs(), []
    with bar("timing", len(chosen)) as advance:
        for name, ours, theirs in chosen:
            rows.append(row(name, ours, theirs, repeats))
            advance()
    print(f"{'':48} {'ours ms':>9} {'theirs ms':>9} {'ratio':>7} {'peak MiB':>9}")
    for r in rows:
        print(f"{r['name']:48} {r['ours_ms']:9.2f} {r['theirs_ms']:9.2f} {r['ratio']:7.2f} {r['ours_peak_mib'] or '–':>9}")
    figures = {"machine": machine(processors()), "rows": rows}
    write_json(path, figures)
    return figures


if __name__ == "__main__":
    main()
