"""Corpora from the Hugging Face hub, read from parquet files (data sets that are scripts no longer load)."""

from course_lib.data.conll import Sentence
from course_lib.data.tags import detect_scheme, to_iob2
from course_lib.errors import CourseError

SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
TAG_COLUMNS = ("ner_tags", "tags", "labels")


def read_hub(name: str) -> dict[str, list[Sentence]]:
    """Download a token-classification data set and return its splits in IOB2.

    Args:
        name: the hub id, ``conll2003`` or ``owner/name``; with ``id:config`` one configuration of it.
    Returns:
        Sentences by split: ``train`` and, where there are, ``dev`` and ``test``.
    Raises:
        CourseError: the hub cannot be reached, or the data set is not one of words and tags.
    """
    import datasets

    identifier, _, config = name.partition(":")
    try:
        # The hub converts every public data set to parquet under this revision.
        loaded = datasets.load_dataset(identifier, config or None, revision="refs/convert/parquet")
    except Exception as error:  # network, proxy, missing id, wrong config: each library layer has its own class
        raise CourseError(
            f"Cannot load the hub corpus {name!r}: {type(error).__name__}: {error}. It needs a network; "
            "offline, leave --data out (generated corpus) or give a folder of CoNLL files."
        ) from error
    return {SPLITS[split]: _sentences(part, name) for split, part in loaded.items() if split in SPLITS}


def _sentences(part, name: str) -> list[Sentence]:
    column = next((c for c in TAG_COLUMNS if c in part.column_names), None)
    if column is None or "tokens" not in part.column_names:
        raise CourseError(f"{name}: columns {part.column_names}; expected 'tokens' and one of {list(TAG_COLUMNS)}.")
    names = getattr(getattr(part.features[column], "feature", None), "names", None)
    rows = [(row["tokens"], [names[t] if names else str(t) for t in row[column]]) for row in part]
    scheme = detect_scheme(tags for _, tags in rows)
    return [Sentence(tuple(words), tuple(to_iob2(tags, scheme)[0])) for words, tags in rows if words]
