"""Vocabulary trimming: a word-piece vocabulary and its embeddings without the pieces that the data never needs.

Half of a small encoder is its word embeddings, and most of them belong to pieces that a domain never uses
(Abdaoui et al. 2020, 2010.05609). WordPiece takes the longest piece that fits, from left to right. The longest of all pieces is
also the longest of fewer, as long as it is among them: a text whose pieces were all kept is cut as before, and the model says
exactly the same. Other words are cut into pieces that were kept, shorter ones.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.report import Report, Reporting


def count_pieces(sentences: Iterable[Sequence[str]], tokenizer: Tokenizer) -> Counter[int]:
    """How often each piece occurs in sentences of words, special pieces left out.

    Returns:
        piece id → count.
    """
    encoded = tokenizer.encode_batch([list(s) for s in sentences], is_pretokenized=True, add_special_tokens=False)
    return Counter(i for one in encoded for i in one.ids)


def choose_pieces(
    counts: Counter[int], tokenizer: Tokenizer, most: int | None = None, characters: str | None = None
) -> list[int]:
    """The pieces to keep: special ones, single characters, and those that occur.

    Args:
        counts: of :func:`count_pieces`.
        tokenizer: of WordPiece.
        most: how many pieces that occur to keep, the most frequent first (then the lower id); None: all of them.
        characters: single characters whose two pieces (at a word's start, and inside) are kept; None: all in the
            vocabulary. A word with another character becomes ``[UNK]`` as a whole.
    Returns:
        Piece ids in ascending order.
    Raises:
        ValueError: ``most`` is negative.
        CourseError: no WordPiece tokenizer.
    """
    model, special = _word_piece(tokenizer)
    expect(most is None or most >= 0, "most", most, "at least 0 pieces, or None")
    prefix = model["continuing_subword_prefix"]
    single = {i for piece, i in model["vocab"].items() if _is_single(piece.removeprefix(prefix), characters)}
    ranked = sorted((i for i in counts if i not in single | special), key=lambda i: (-counts[i], i))
    return sorted(single | special | set(ranked[:most]))


def _is_single(piece: str, characters: str | None) -> bool:
    return len(piece) == 1 and (characters is None or piece in characters)


def trim_tokenizer(tokenizer: Tokenizer, keep: Collection[int]) -> Tokenizer:
    """A tokenizer of the pieces ``keep`` alone, numbered anew in ascending order.

    Raises:
        ValueError: an id that the vocabulary does not have, or a special piece that is not among them.
        CourseError: no WordPiece tokenizer.
    """
    model, special = _word_piece(tokenizer)
    known, kept = set(model["vocab"].values()), sorted(set(keep))
    strange, lost = sorted(set(kept) - known), sorted(special - set(kept))
    expect(not strange, "keep", strange[:3], f"ids of the {len(known)} pieces of this vocabulary")
    expect(not lost, "keep", f"without {lost}", "all special pieces")
    number, data = {old: new for new, old in enumerate(kept)}, json.loads(tokenizer.to_str())
    data["model"]["vocab"] = {piece: number[i] for piece, i in model["vocab"].items() if i in number}
    for token in data["added_tokens"]:
        token["id"] = number[token["id"]]
    for token in (data["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [number[i] for i in token["ids"]]
    return Tokenizer.from_str(json.dumps(data))


def trim_vocabulary(model: nn.Module, tokenizer: Tokenizer, keep: Collection[int]) -> tuple[Tokenizer, Report]:
    """Remove all other pieces from a model's word embeddings, in place, and from its tokenizer.

    Args:
        model: with input embeddings (V, D) that nothing else shares; its config follows.
        tokenizer: the model's own.
        keep: ids of the pieces that stay, all special ones among them (:func:`choose_pieces`).
    Returns:
        The tokenizer for the smaller model, and the report.
    Raises:
        ValueError: as of :func:`trim_tokenizer`, or the piece that the embeddings or the config pad with is not among ``keep``.
        CourseError: no WordPiece tokenizer, or embeddings that are tied or of another size than the vocabulary.
    """
    words = model.get_input_embeddings()
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is words.weight]
    if len(names) > 1:
        raise CourseError(f"model: its word embeddings are tied ({', '.join(names)}); untie them before trimming.")
    pieces = len(_word_piece(tokenizer)[0]["vocab"])
    if words.num_embeddings < pieces:
        raise CourseError(f"model: {words.num_embeddings} word embeddings for {pieces} pieces; give the model's own tokenizer.")
    smaller, count = trim_tokenizer(tokenizer, keep), Reporting(model)
    number = {old: new for new, old in enumerate(sorted(set(keep)))}
    padding, pad = words.padding_idx, getattr(model.config, "pad_token_id", None)  # a model may have one without the other
    for name, old in (("padding_idx", padding), ("pad_token_id", pad)):
        expect(old is None or old in number, "keep", f"without {old}", f"the model's {name} among the pieces")
    new = number.get(padding)
    fresh = nn.Embedding(len(number), words.embedding_dim, new, dtype=words.weight.dtype, device=words.weight.device)
    fresh.weight = nn.Parameter(words.weight.detach()[list(number)].clone(), requires_grad=words.weight.requires_grad)
    model.set_input_embeddings(fresh)
    model.config.vocab_size = len(number)
    if pad is not None:
        model.config.pad_token_id = number[pad]
    return smaller, count.report([f"{names[0]}: {words.num_embeddings} → {len(number)} pieces"])


def _word_piece(tokenizer: Tokenizer) -> tuple[dict, set[int]]:
    """The model of a WordPiece tokenizer as data, and the ids of its special pieces."""
    data = json.loads(tokenizer.to_str())
    model, kind, post = data["model"], data["model"].get("type"), (data["post_processor"] or {}).get("type")
    if kind != "WordPiece" or post not in (None, "TemplateProcessing"):
        raise CourseError(f"tokenizer: {kind} with {post}; expected WordPiece with TemplateProcessing, as BERT has.")
    special = {token["id"] for token in data["added_tokens"]}
    special |= {i for token in (data["post_processor"] or {}).get("special_tokens", {}).values() for i in token["ids"]}
    named = {model["unk_token"], "[PAD]"}  # a tokenizer made by hand may not have declared them
    return model, special | {i for piece, i in model["vocab"].items() if piece in named}
