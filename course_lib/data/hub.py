"""Corpora from the Hugging Face hub, read from parquet files (data sets that are scripts no longer load)."""

from pathlib import Path

from course_lib.data.conll import ConllFile, Sentence
from course_lib.data.tags import IllegalTag, detect_scheme, split_tag, to_iob2
from course_lib.errors import CourseError

SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
TAG_COLUMNS = ("ner_tags", "tags", "labels")


def read_hub(name: str, repair: bool = False) -> dict[str, ConllFile]:
    """Download a token-classification data set and return its splits in IOB2.

    Args:
        name: the hub id, ``conll2003`` or ``owner/name``; with ``id:config`` one configuration of it.
        repair: mend illegal tag transitions instead of stopping; the results say how many.
    Returns:
        Sentences by split: ``train`` and, where there are, ``dev`` and ``test``.
    Raises:
        CourseError: the hub cannot be reached, or the data set is not one of words and tags with a training split.
    """
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise CourseError(
            f"The hub corpus {name!r} needs the package 'datasets'. Install it: pip install 'course_lib[hub]'."
        ) from error

    identifier, _, config = name.partition(":")
    try:
        if not (Path(identifier).is_dir() or datasets.config.HF_HUB_OFFLINE):
            huggingface_hub.HfApi().dataset_info(identifier, timeout=10)  # load_dataset would try for half a minute
        # The hub converts every public data set to parquet under this revision.
        loaded = datasets.load_dataset(identifier, config or None, revision="refs/convert/parquet")
    except Exception as error:  # network, proxy, missing id, wrong config: each library layer has its own class
        raise CourseError(
            f"Cannot load the hub corpus {name!r}: {type(error).__name__}: {error}. It needs a network; "
            "offline, leave --data out (generated corpus) or give a folder of CoNLL files."
        ) from error
    if "train" not in loaded:
        raise CourseError(f"{name}: splits {sorted(loaded)}; expected 'train' among them, a model cannot be trained without.")
    return {SPLITS[split]: _read(part, f"{name}, {split}", repair) for split, part in loaded.items() if split in SPLITS}


def _read(part, where: str, repair: bool) -> ConllFile:
    column = next((c for c in TAG_COLUMNS if c in part.column_names), None)
    if column is None or "tokens" not in part.column_names:
        raise CourseError(f"{where}: columns {part.column_names}; expected 'tokens' and one of {list(TAG_COLUMNS)}.")
    names = getattr(getattr(part.features[column], "feature", None), "names", None)
    label = dict(enumerate(names)).get if names else lambda tag: tag  # -1 stands for a label that is not given
    rows = []
    for number, row in enumerate(part):
        words, tags = row["tokens"], [str(label(tag)) for tag in row[column]]
        try:
            if len(words) != len(tags):
                raise ValueError(f"{len(words)} words and {len(tags)} tags: expected one tag per word")
            for tag in tags:
                split_tag(tag)
        except ValueError as error:
            raise CourseError(f"{where}, row {number}: {error}.") from error
        if words:
            rows.append((number, words, tags))
    file = ConllFile([], detect_scheme(tags for _, _, tags in rows))
    for number, words, tags in rows:
        try:
            iob2, mended = to_iob2(tags, file.scheme, repair)
        except IllegalTag as error:
            raise CourseError(
                f"{where}, row {number}: {error}. Read with repair=True (--repair) to mend such tags and count them."
            ) from error
        file.sentences.append(Sentence(tuple(words), tuple(iob2)))
        file.repaired += mended
    return file
