"""Names of the generated corpus: each split has its own, shares are as documented, and every form is well made."""

import random
from collections import Counter

import pytest

from course_lib.data.names import AMBIGUOUS, ENDINGS, FAME, SHARED, SPLITS, Names, invent, read_ambiguous, read_lines, split_of
from course_lib.errors import CourseError

DRAWS = 4000


@pytest.fixture
def folder(tmp_path):
    """Gazetteers of recognisable names, 120 a kind: Award0 …, First0 …, Last0 …"""
    (tmp_path / "gazetteers").mkdir()
    for kind, stem in (
        ("misc.award", "Award"),
        ("per.first", "First"),
        ("per.last", "Last"),
        ("per.known", "Known Person"),
        ("org.uni", "Uni"),
    ):
        lines = [f"{stem}{i}" for i in range(120)]
        (tmp_path / "gazetteers" / f"{kind}.txt").write_text("# names\n\n" + "\n".join(lines) + "\n", "utf-8")
    (tmp_path / "ambiguous.txt").write_text("# name TAB kinds\n", "utf-8")
    return tmp_path


def draws(folder, split, kind, seed=0, count=DRAWS):
    names = Names(folder, split, random.Random(seed))
    return [" ".join(names.draw(kind)) for _ in range(count)]


def five_sigma(share, count=DRAWS):
    return 5 * (share * (1 - share) / count) ** 0.5


def test_names_are_parted_by_hash_in_the_documented_shares():
    names = [f"Name {i}" for i in range(DRAWS)]
    for kind, shares in (("loc.city", (0.70, 0.10, 0.20)), ("loc.country", (0.84, 0.05, 0.11))):
        counts = Counter(split_of(n, kind) for n in names)
        for split, share in zip(SPLITS, shares, strict=True):
            # 1/256: the hash is read as one byte
            assert abs(counts[split] / DRAWS - share) < five_sigma(share) + 1 / 256


def test_a_name_belongs_to_one_split_however_it_is_written():
    assert all(split_of(n.upper(), "loc.city") == split_of(n, "loc.city") for n in (f"Town{i}" for i in range(200)))


def test_training_draws_only_its_own_names_and_all_of_them(folder):
    own = {f"Award{i}" for i in range(120) if split_of(f"Award{i}", "misc.award") == "train"}
    assert set(draws(folder, "train", "misc.award")) == own


def test_the_first_names_of_a_list_are_drawn_likelier_by_the_documented_weight(folder):
    own = [n for i in range(120) if split_of(n := f"Award{i}", "misc.award") == "train"]
    weights = [1 / (rank + FAME) for rank in range(len(own))]
    drawn = Counter(draws(folder, "train", "misc.award"))
    for part in (own[:10], own[-30:]):
        share = sum(weights[own.index(n)] for n in part) / sum(weights)
        assert abs(sum(drawn[n] for n in part) / DRAWS - share) < five_sigma(share)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_other_splits_share_the_documented_part_of_their_names_with_training(folder, split):
    drawn = draws(folder, split, "misc.award")
    owners = Counter(split_of(name, "misc.award") for name in drawn)
    assert set(owners) == {split, "train"}
    assert abs(owners["train"] / DRAWS - SHARED) < five_sigma(SHARED)


def test_ambiguous_names_are_drawn_for_each_of_their_kinds_and_likelier_than_plain_ones(folder):
    (folder / "ambiguous.txt").write_text("".join(f"Both {i}\tmisc.award org.uni\n" for i in range(60)), "utf-8")
    own = [n for i in range(60) if split_of(n := f"Both {i}", "ambiguous") == "train"]
    plain = sum(split_of(f"Award{i}", "misc.award") == "train" for i in range(120))
    share = AMBIGUOUS * len(own) / (AMBIGUOUS * len(own) + plain)
    for kind in ("misc.award", "org.uni"):
        drawn = Counter(draws(folder, "train", kind))
        assert {n for n in drawn if n.startswith("Both")} == set(own)
        if kind == "misc.award":
            assert abs(sum(drawn[n] for n in own) / DRAWS - share) < five_sigma(share)


def test_persons_come_in_every_form_and_full_names_are_full(folder):
    def form(name):
        return tuple("initial" if w.endswith(".") else w.rstrip("0123456789") for w in name.split())

    forms = Counter(map(form, (n for n in draws(folder, "train", "per") if "First" in n or "Last" in n or "Known" in n)))
    assert forms.most_common(1)[0][0] == ("First", "Last")
    expected = {("First", "Last"), ("Last",), ("First",), ("Known", "Person"), ("First", "initial", "Last")}
    assert expected | {("initial", "Last"), ("First", "Last", "Last"), ("First", "First", "Last")} <= set(forms)
    full = draws(folder, "train", "per.full")
    assert all(len(name.split()) >= 2 for name in full)
    assert {"Known Person", "First Last"} <= {" ".join(form(n)) for n in full}


def test_patterns_are_filled_with_names_of_the_same_split(folder):
    (folder / "gazetteers" / "org.uni.txt").write_text("{misc.award} University\n" + "Uni\n" * 5, "utf-8")
    (folder / "gazetteers" / "misc.award.txt").write_text("\n".join(f"Award{i}" for i in range(120)), "utf-8")
    split = split_of("Uni", "org.uni")
    drawn = draws(folder, split, "org.uni")
    composed = [n.removesuffix(" University") for n in drawn if n.endswith(" University")]
    assert 0.2 < len(composed) / DRAWS < 0.5  # neither kind of name is rare
    assert {split_of(n, "misc.award") for n in composed} <= {split, "train"}
    assert set(drawn) - {f"{n} University" for n in composed} == {"Uni"}


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_invented_names_look_like_names_and_hardly_repeat(kind):
    rng = random.Random(kind)
    made = [invent(kind, rng) for _ in range(500)]
    for words in made:
        assert words and all(words)
        assert words[0][0].isupper() and len(words[0]) >= 2
    assert len({tuple(w) for w in made}) > 250
    again = random.Random(kind)
    assert [invent(kind, again) for _ in range(500)] == made


def test_an_unknown_kind_is_refused_with_the_known_ones(folder):
    with pytest.raises(CourseError, match=r"slot \{loc.moon\}: no such kind; expected per, per.full or one of \['misc.award'"):
        draws(folder, "train", "loc.moon")


def test_a_gazetteer_without_a_name_for_a_split_is_an_error_that_says_so(folder):
    only = next(f"Award{i}" for i in range(120) if split_of(f"Award{i}", "misc.award") == "validation")
    (folder / "gazetteers" / "misc.award.txt").write_text(only + "\n", "utf-8")
    assert set(Names(folder, "validation", random.Random(0)).pools["validation"]["misc.award"]) == {only}
    with pytest.raises(CourseError, match=r"gazetteers/misc.award.txt: none of its 1 names belongs to the split 'train'"):
        draws(folder, "train", "misc.award")


def test_lists_leave_out_comments_and_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("# x\n\n New York \r\nKrung#Thep\n \n", "utf-8")
    assert read_lines(tmp_path / "a.txt") == ["New York", "Krung#Thep"]


@pytest.mark.parametrize("line", ["Jordan", "Jordan\tloc.country", "Jordan per.first loc.country"])
def test_an_ambiguous_name_with_less_than_two_kinds_is_refused(tmp_path, line):
    (tmp_path / "ambiguous.txt").write_text(f"Ok\ta b\n{line}\n", "utf-8")
    with pytest.raises(CourseError, match=r"^ambiguous.txt: .*; expected a name, a tab and at least two kinds") as error:
        read_ambiguous(tmp_path / "ambiguous.txt")
    assert repr(line) in str(error.value)
