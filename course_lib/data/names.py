"""Names for the generated corpus: gazetteers, ambiguous names, invented names; each split has its own.

A name belongs to ``train``, ``validation`` or ``test`` by the hash of its letters, so that the names of the test
are new to a model, apart from the share :data:`SHARED` that is drawn from the training names on purpose: texts
do repeat famous names.
"""

import hashlib
import itertools
import random
from pathlib import Path

from course_lib.data.grammar import Expander
from course_lib.errors import CourseError

SPLITS = ("train", "validation", "test")
SHARED = 0.75  # share of the names of validation and test that are drawn from the training names
AMBIGUOUS = 0.25  # weight of a name of several kinds against one of the plain list
FAME = 4  # weight 1 / (rank + FAME): the smaller, the more often the first names of a list come
INVENTED = 0.03  # share of draws that make a name up, where the kind has a recipe for it
CLOSED = {"loc.country", "misc.nat", "misc.people", "misc.lang"}  # nearly all of them are met in training

FORMS = (  # of a person's name, with weights
    (("first", "last"), 50), (("last",), 16), (("first",), 10), (("known",), 9), (("first", "initial", "last"), 5),
    (("initial", "last"), 5), (("first", "last", "last"), 3), (("first", "first", "last"), 2),
)  # fmt: skip

ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr sh st th tr vl".split()
NUCLEI = "a e i o u a e i o ai ea ei ie oa ou".split()
CODAS = ["", "", "", "l", "n", "r", "s", "m", "k", "t", "nd", "rt", "ll", "x"]
ENDINGS = {
    "per.first": ["a", "o", "in", "ia", "us", "el", "ka", "en", "y", ""],
    "per.last": ["son", "ov", "ini", "escu", "sen", "ak", "er", "ez", "ian", "wala", "moto", "man", "ski", "", ""],
    "loc.city": ["ville", "ford", "burg", "ovo", "grad", "stad", "ton", "pur", "mouth", "by", "ia", "", ""],
    "loc.region": ["shire", "land", "ia", "stan", "mark", "", ""],
    "loc.water": [" River", " Lake", " Bay", "a", "e", ""],
    "loc.area": [" Street", " Square", " Park", " Quarter", " Lane", "gate", "heim", ""],
    "org.company": [" Systems", " Holdings", " Pharma", " Foods", " Inc.", " Ltd.", " Group", " AG", " Energy", " Bank", "ex", "soft", "", "", ""],
    "org.club": [" FC", " United", " Rovers", " Athletic", " City", " Wolves", "", ""],
    "org.band": [" Brothers", " Machine", " Quartet", "s", "", ""],
    "org.media": [" Herald", " Post", " Times", " TV", " Gazette"],
    "misc.product": [" 3", " X2", " Pro", " 500", "OS", " Mini", "pad", "", ""],
    "misc.nat": ["ian", "ese", "ish"],
    "misc.lang": ["ese", "ish", "i"],
}  # fmt: skip


def split_of(name: str, kind: str) -> str:
    """The split a name belongs to, by its hash: 70 % train, 10 % validation, 20 % test (closed kinds 84 / 5 / 11).

    >>> split_of("Paris", "loc.city") == split_of("Paris", "loc.city")
    True
    """
    bucket = hashlib.sha256(name.lower().encode()).digest()[0] / 256
    train, validation = (0.84, 0.89) if kind in CLOSED else (0.70, 0.80)
    return SPLITS[(bucket >= train) + (bucket >= validation)]


def invent(kind: str, rng: random.Random) -> list[str]:
    """Make up a name of a kind listed in :data:`ENDINGS`, such as ``["Velmar", "Systems"]``."""
    stem = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.choice((1, 1, 2)))) + rng.choice(CODAS)
    ending = rng.choice(ENDINGS[kind])
    if not ending and len(stem) < 5:
        stem += rng.choice(ONSETS)[0] + rng.choice(NUCLEI)
    return (stem[0].upper() + stem[1:] + ending).split()


class Names:
    """Draws names of any kind for one split.

    Args:
        folder: ``gazetteers/`` and ``ambiguous.txt`` are below it.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        rng: every draw comes from here.
    """

    def __init__(self, folder: Path, split: str, rng: random.Random) -> None:
        self.split, self.rng = split, rng
        self.lists = {f.stem: read_lines(f) for f in sorted((folder / "gazetteers").glob("*.txt"))}
        self.pools = {
            s: {k: [n for n in names if split_of(n, k) == s and "{" not in n] for k, names in self.lists.items()}
            for s in SPLITS
        }
        self.patterns = {k: [n for n in names if "{" in n] for k, names in self.lists.items()}
        self.ambiguous: dict[str, dict[str, list[str]]] = {s: {} for s in SPLITS}
        for name, kinds in read_ambiguous(folder / "ambiguous.txt"):
            for kind in kinds:
                self.ambiguous[split_of(name, "ambiguous")].setdefault(kind, []).append(name)
        longest = max(map(len, self.lists.values()))
        self.weights = list(itertools.accumulate(1 / (rank + FAME) for rank in range(longest)))
        self.expander = Expander({}, self.draw, rng)

    def draw(self, kind: str) -> list[str]:
        """Words of a name of ``kind`` (``per`` takes any form of a person's name)."""
        if kind in ("per", "per.full"):
            return self._person(kind)
        if kind not in self.lists:
            raise CourseError(f"slot {{{kind}}}: no such kind; expected per, per.full or one of {sorted(self.lists)}")
        source = self.split if self.split == "train" or self.rng.random() >= SHARED else "train"
        if kind in ENDINGS and self.rng.random() < INVENTED:
            return invent(kind, self.rng)
        if self.patterns[kind] and self.rng.random() < 0.35:
            # A composed name is new by its parts, so its pattern may serve every split.
            return [word for word, _ in self.expander.frame(self.rng.choice(self.patterns[kind]))]
        plain, ambiguous = self.pools[source][kind], self.ambiguous[source].get(kind, [])
        if not plain and not ambiguous:
            raise CourseError(
                f"gazetteers/{kind}.txt: none of its {len(self.lists[kind])} names belongs to the split {source!r}. "
                "Add names; the hash of a name decides where it belongs."
            )
        share = AMBIGUOUS * len(ambiguous) / (AMBIGUOUS * len(ambiguous) + len(plain))
        return (self.rng.choice(ambiguous) if self.rng.random() < share else self._famous(plain)).split()

    def _famous(self, names: list[str]) -> str:
        """A name, the first of the list likelier than the last: as in life, a few names fill most texts."""
        return self.rng.choices(names, cum_weights=self.weights[: len(names)])[0]

    def _person(self, kind: str) -> list[str]:
        forms = [
            (f, w) for f, w in FORMS if kind == "per" or f == ("known",) or ({"first", "initial"} & set(f) and "last" in f)
        ]
        form = self.rng.choices([f for f, _ in forms], [w for _, w in forms])[0]
        return [word for part in form for word in self._part(part)]

    def _part(self, part: str) -> list[str]:
        if part == "initial":
            return [self.rng.choice("ABCDEFGHIJKLMNOPRSTVWY") + "."]
        return self.draw(f"per.{part}")


def read_lines(path: Path) -> list[str]:
    """Lines of a gazetteer, comments and blank lines left out."""
    return [line.strip() for line in path.read_text("utf-8").split("\n") if line.strip() and not line.startswith("#")]


def read_ambiguous(path: Path) -> list[tuple[str, list[str]]]:
    """``(name, kinds)`` of each line ``name TAB kind kind …``.

    Raises:
        CourseError: a line with fewer than two kinds.
    """
    rows = []
    for line in read_lines(path):
        name, _, kinds = line.partition("\t")
        if len(kinds.split()) < 2:
            raise CourseError(f"{path.name}: {line!r}; expected a name, a tab and at least two kinds")
        rows.append((name, kinds.split()))
    return rows
