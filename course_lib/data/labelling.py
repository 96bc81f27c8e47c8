"""Labels for word pieces: the right way written out, and four published wrong ways to compare it with.

``word_ids`` names the word of each piece, and None for special pieces, as Hugging Face's tokenizers give it.
"""

from collections.abc import Callable, Mapping, Sequence

from tokenizers import Tokenizer

from course_lib.data.align import IGNORED

WordIds = Sequence[int | None]
Way = Callable[[WordIds, Sequence[str], Mapping[str, int]], list[int]]


def first_pieces(word_ids: WordIds, tags: Sequence[str], index: Mapping[str, int]) -> list[int]:
    """The tag's number at the first piece of each word, −100 everywhere else (Devlin et al. 2018, 1810.04805, section 5.3).

    Args:
        word_ids: of each piece, the number of its word; None for a special piece.
        tags: of each word.
        index: tag → number.
    Returns:
        A label for each piece.

    >>> first_pieces([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [-100, 1, -100, 0, -100]
    """
    before = [None, *word_ids]
    return [
        index[tags[word]] if word is not None and word != last else IGNORED
        for last, word in zip(before, word_ids, strict=False)
    ]


def by_position(word_ids: WordIds, tags: Sequence[str], index: Mapping[str, int]) -> list[int]:
    """Wrong: the i-th piece after [CLS] gets the i-th word's tag, as if pieces were words; filled up with O.

    >>> by_position([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [-100, 1, 0, 0, -100]
    """
    labels = iter([index[tag] for tag in tags])
    return [IGNORED if word is None else next(labels, index["O"]) for word in word_ids]


def all_pieces(word_ids: WordIds, tags: Sequence[str], index: Mapping[str, int]) -> list[int]:
    """Wrong: every piece gets its word's tag as it is, so that a name of three pieces begins three times.

    >>> all_pieces([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [-100, 1, 1, 0, -100]
    """
    return [IGNORED if word is None else index[tags[word]] for word in word_ids]


def rest_outside(word_ids: WordIds, tags: Sequence[str], index: Mapping[str, int]) -> list[int]:
    """Wrong: the later pieces of a word are O.

    >>> rest_outside([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [-100, 1, 0, 0, -100]
    """
    later = {i for i in range(1, len(word_ids)) if word_ids[i] is not None and word_ids[i] == word_ids[i - 1]}
    return [index["O"] if i in later else label for i, label in enumerate(first_pieces(word_ids, tags, index))]


def specials_outside(word_ids: WordIds, tags: Sequence[str], index: Mapping[str, int]) -> list[int]:
    """Wrong: what is not the first piece of a word, special pieces included, is O; padding is to be filled with O as well.

    >>> specials_outside([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [0, 1, 0, 0, 0]
    """
    return [index["O"] if label == IGNORED else label for label in first_pieces(word_ids, tags, index)]


def pieces_of(words: Sequence[str], tokenizer: Tokenizer) -> tuple[list[str], list[int], list[int | None]]:
    """Pieces, their ids and the word of each, with the special pieces of the tokenizer around them."""
    encoded = tokenizer.encode(list(words), is_pretokenized=True)
    return encoded.tokens, encoded.ids, encoded.word_ids
