"""Pairs of ``make bench`` about NER: entity F1, the distillation loss, word pieces."""

from collections.abc import Callable


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
    same(ours_f1(), theirs_f1(), 1e-12)

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 64, 128, 9).unbind()
    mask = torch.ones(64, 128, dtype=torch.bool)
    ours_kd = lambda: token_kd_loss(student, teacher, mask, 2.0)  # noqa: E731

    def theirs_kd():
        log_q, log_p = F.log_softmax(student.flatten(0, 1) / 2, -1), F.log_softmax(teacher.flatten(0, 1) / 2, -1)
        return 4 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    same(ours_kd().item(), theirs_kd().item(), 1e-5)

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


def same(ours: float, theirs: float, tolerance: float) -> None:
    """Refuse to time two functions whose results differ by more than ``tolerance``."""
    if abs(ours - theirs) > tolerance:
        raise AssertionError(f"ours {ours} and theirs {theirs} differ by more than {tolerance}: timing them would mean nothing")
