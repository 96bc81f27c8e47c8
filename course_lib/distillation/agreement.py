"""Whether models can be compared, or averaged, piece by piece: they must read the same pieces and say the same tags."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.zoo import model_tags


def check_tags(models: Sequence[nn.Module], names: Sequence[str]) -> None:
    """Refuse models whose logits stand for other tags than the first one's.

    Args:
        models: token classifiers, at least one; names: of each, for the message.
    Raises:
        CourseError: other tags, or the same in another order.
        ValueError: no model, or not as many names.
    """
    _check_names("models", models, names)
    said = [model_tags(m) for m in models]
    for name, tags in zip(names, said, strict=True):
        if tags != said[0]:
            raise CourseError(f"{name}'s tags are {tags}, {names[0]}'s {said[0]}: expected the same, in the same order.")


def check_tokenizers(tokenizers: Sequence[Tokenizer], names: Sequence[str]) -> None:
    """Refuse tokenizers that do not do exactly what the first one does, whatever their files look like.

    Args:
        tokenizers: at least one; names: of whose they are, for the message.
    Raises:
        CourseError: another vocabulary, or other rules.
        ValueError: no tokenizer, or not as many names.
    """
    _check_names("tokenizers", tokenizers, names)
    first = tokenizers[0].to_str()
    for name, tokenizer in zip(names, tokenizers, strict=True):
        if tokenizer.to_str() != first:
            sizes = f"{tokenizer.get_vocab_size():,} and {tokenizers[0].get_vocab_size():,} pieces"
            raise CourseError(
                f"{name} has another tokenizer than {names[0]} ({sizes}): they cut text into other pieces or number them differently. "
                "Expected the same tokenizer, so that what one says of a piece is about the same piece."
            )


def _check_names(argument: str, given: Sequence, names: Sequence[str]) -> None:
    expect(len(given) > 0, argument, 0, "at least one")
    expect(len(names) == len(given), "names", list(names), f"{len(given)}, one for each")
