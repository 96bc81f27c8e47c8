"""The generated corpus: hand-written sentence frames filled with names, the same for the same seed.

Frames and most names of validation and test never occur in training, so that what is learnt is how language
marks a name, not a list of names. ``corpus/GUIDELINES.md`` says how frames are written and entities tagged.
"""

import hashlib
import random
from pathlib import Path

from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.data.grammar import Expander, Grammar, Tagged, read_grammar
from course_lib.data.names import SPLITS, Names
from course_lib.errors import CourseError, expect

FOLDER = Path(__file__).parent / "corpus"
SIZES = {"train": 6000, "validation": 1000, "test": 1500}
WEIGHTS = {"plain": 2.5}  # domains drawn more often than others; ``plain`` holds no entities
LONGEST = 60  # words; longer draws are drawn again
PATIENCE = 5000  # draws in a row that give no new sentence, before a split is given up
LOWER, UPPER, MISSPELT = 0.10, 0.04, 0.06  # shares of sentences


def load_grammars(folder: Path = FOLDER) -> list[Grammar]:
    """All domains, in the order of their names; ``common`` gives its productions to each."""
    shared = read_grammar(folder / "frames" / "common.txt", {}).productions
    grammars = [read_grammar(f, shared) for f in sorted((folder / "frames").glob("*.txt")) if f.stem != "common"]
    if not grammars:
        raise CourseError(f"{folder / 'frames'}: no frames; expected files such as news.txt beside common.txt.")
    return grammars


def split_frames(frames: list[str]) -> dict[str, list[str]]:
    """Part the frames of a domain: 70 % train, 10 % validation, 20 % test, in the order of their hashes."""
    order = sorted(set(frames), key=lambda f: hashlib.sha256(f.encode()).hexdigest())
    a, b = round(0.7 * len(order)), round(0.8 * len(order))
    return {"train": order[:a], "validation": order[a:b], "test": order[b:]}


def generate(seed: int = 0, sizes: dict[str, int] | None = None, folder: Path = FOLDER) -> Corpus:
    """Make the corpus.

    Args:
        seed: equal seeds give equal corpora on every machine.
        sizes: sentences per split, default 6 000 / 1 000 / 1 500.
        folder: frames and gazetteers, to generate from one's own.
    Returns:
        The corpus ``generated``; no sentence occurs twice in it.
    Raises:
        CourseError: too few frames or names in ``folder`` for so many sentences.
    """
    sizes = sizes or SIZES
    for split in SPLITS:
        expect(sizes.get(split, 0) > 0, f"sizes[{split!r}]", sizes.get(split), "a number of sentences above 0")
    grammars, seen, parts = load_grammars(folder), set(), {}
    for split in SPLITS:
        parts[split] = list(_sentences(grammars, split, sizes[split], folder, random.Random(f"{seed}/{split}"), seen))
    splits = f"frames and names kept apart between train, validation and test; seed {seed}"
    return Corpus("generated", parts["train"], parts["validation"], parts["test"], splits)


def _sentences(grammars: list[Grammar], split: str, count: int, folder: Path, rng: random.Random, seen: set):
    names = Names(folder, split, rng)
    decks: dict[str, list[str]] = {}
    rejected = 0
    while count:
        grammar = rng.choices(grammars, [WEIGHTS.get(g.domain, 1.0) for g in grammars])[0]
        deck = decks.setdefault(grammar.domain, [])
        if not deck:  # every frame of a domain is used once before one comes again
            deck += split_frames(grammar.frames)[split]
            if not deck:
                raise CourseError(
                    f"frames/{grammar.domain}.txt: {len(grammar.frames)} different frames at most, none is left for {split}. "
                    "Write at least ten."
                )
            rng.shuffle(deck)
        tagged = Expander(grammar.productions, names.draw, rng).frame(deck.pop())
        sentence = _disguise(tagged, rng)
        if 0 < len(sentence.words) <= LONGEST and sentence.words not in seen:
            seen.add(sentence.words)
            count, rejected = count - 1, 0
            yield sentence
            continue
        rejected += 1
        if rejected > PATIENCE:
            raise CourseError(
                f"{split}: {PATIENCE} draws in a row gave no new sentence of 1 to {LONGEST} words, {count} are still missing. "
                "Ask for fewer sentences, or write more frames and names."
            )


def _disguise(tagged: Tagged, rng: random.Random) -> Sentence:
    """As it is, or lower-cased, in capitals, or with typing errors."""
    words, tags = zip(*tagged, strict=True) if tagged else ((), ())
    chance = rng.random()
    if chance < LOWER:
        words = tuple(w.lower() for w in words)
    elif chance < LOWER + UPPER:
        words = tuple(w.upper() for w in words)
    elif chance < LOWER + UPPER + MISSPELT:
        words = tuple(misspell(w, rng) if rng.random() < 0.15 else w for w in words)
    return Sentence(words, tags)


def misspell(word: str, rng: random.Random) -> str:
    """One slip of the fingers inside a word of five letters or more: swapped, dropped or doubled.

    >>> misspell("and", random.Random(0))
    'and'
    """
    if len(word) < 5 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 2)
    return rng.choice((word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[: i + 1] + word[i:]))
