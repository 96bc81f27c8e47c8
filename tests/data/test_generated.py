"""The generated corpus: reproducible, split without leaks, legal, varied; and a folder of one's own works or says why not."""

import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from course_lib.data.generated import (
    FOLDER,
    LONGEST,
    LOWER,
    MISSPELT,
    SIZES,
    UPPER,
    generate,
    load_grammars,
    misspell,
    split_frames,
)
from course_lib.data.grammar import Choice, Expander, parse
from course_lib.data.names import SPLITS, Names, read_ambiguous, read_lines
from course_lib.data.tags import spans, to_iob2
from course_lib.errors import CourseError

SMALL = {"train": 300, "validation": 50, "test": 80}


@pytest.fixture(scope="module")
def corpus():
    return generate(0)


def parts(corpus):
    return {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}


def entities(sentences):
    return [tuple(w.lower() for w in s.words[e.start : e.end]) for s in sentences for e in spans(s.tags)]


# The corpus as it comes


def test_sizes_name_and_report(corpus):
    assert {k: len(v) for k, v in parts(corpus).items()} == SIZES
    assert SIZES["train"] >= 4000 and min(SIZES.values()) >= 500
    assert corpus.name == "generated" and corpus.notes == []
    assert corpus.splits == "frames and names kept apart between train, validation and test; seed 0"
    assert corpus.types == {"PER", "LOC", "ORG", "MISC"}


def test_no_sentence_twice_none_empty_none_too_long(corpus):
    every = [s.words for part in parts(corpus).values() for s in part]
    assert len(set(every)) == len(every)
    assert all(1 <= len(words) <= LONGEST for words in every)
    assert all(word and not set(word) & set(" \t\n") for words in every for word in words)


def test_all_tags_are_legal_iob2(corpus):
    for part in parts(corpus).values():
        for s in part:
            assert to_iob2(s.tags, "IOB2") == (list(s.tags), 0)


def test_no_sign_of_the_grammar_is_left_in_a_sentence(corpus):
    leftover = re.compile(r"^\{.*\}$|^@\w+$|^[()|]$|-[LR]RB-|\\")
    handles = {token.removeprefix("\\") for f in frame_files() for token in f.read_text("utf-8").split() if token[:2] == "\\@"}
    handles |= {h.upper() for h in handles} | {h.lower() for h in handles}
    found = Counter(w for part in parts(corpus).values() for s in part for w in s.words if leftover.search(w))
    assert set(found) - handles - {"(", ")"} == set()


def test_most_entities_of_the_test_are_new(corpus):
    known = set(entities(corpus.train))
    mentions = entities(corpus.test)
    assert sum(e not in known for e in mentions) / len(mentions) > 0.5


def test_lower_cased_capital_and_entity_free_sentences_occur(corpus):
    for part in parts(corpus).values():
        with_names = [s for s in part if set(s.tags) != {"O"}]
        letters = ["".join(w for w in s.words if w.isalpha()) for s in with_names]
        assert sum(text.islower() for text in letters) / len(letters) > LOWER / 2
        assert sum(text.isupper() for text in letters) / len(letters) > UPPER / 2
        assert 0.05 < 1 - len(with_names) / len(part) < 0.5


def test_misspelt_sentences_occur_and_each_slip_is_one_edit_from_a_word_of_the_frames(corpus):
    vocabulary = {w.removeprefix("\\").lower() for f in frame_files() for w in f.read_text("utf-8").split()}
    vocabulary |= {w.upper().lower() for w in vocabulary} | {"(", ")"}
    slips = {"swapped": 0, "dropped": 0, "doubled": 0}
    for s in corpus.train:
        for word in (w for w, t in zip(s.words, s.tags, strict=True) if t == "O" and w.lower() not in vocabulary):
            word = word.lower()
            cuts = range(len(word))
            swapped = {word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :] for i in cuts}
            dropped = {word[:i] + c + word[i:] for i in cuts for c in "abcdefghijklmnopqrstuvwxyzéüñ"}
            doubled = {word[:i] + word[i + 1 :] for i in cuts if word[i] == word[i - 1]}
            kinds = [k for k, origin in zip(slips, (swapped, dropped, doubled), strict=True) if origin & vocabulary]
            assert kinds, f"{word!r} comes from no frame: {' '.join(s.words)}"
            slips[kinds[0]] += 1
    assert min(slips.values()) > 10


# Reproducible


def test_same_seed_same_corpus_other_seed_another(corpus):
    assert generate(0).fingerprint() == corpus.fingerprint()
    small = {seed: generate(seed, SMALL) for seed in range(4)}
    assert len({c.fingerprint() for c in small.values()}) == 4
    shared = {s.words for s in small[0].train} & {s.words for s in small[1].train}
    assert len(shared) < 30  # another corpus, not another order; frames without slots may repeat


def test_global_random_state_neither_matters_nor_changes():
    random.seed(1)
    state = random.getstate()
    first = generate(5, SMALL).fingerprint()
    assert random.getstate() == state
    random.seed(2)
    assert generate(5, SMALL).fingerprint() == first


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_a_fresh_process_with_other_hashing_makes_the_same_corpus(hash_seed, tmp_path):
    code = f"from course_lib.data.generated import generate; print(generate(7, {SMALL}).fingerprint())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": "C", "LANG": "C"},
    )
    assert done.stdout.strip() == generate(7, SMALL).fingerprint()


# What it is made from


def frame_files():
    return sorted((FOLDER / "frames").glob("*.txt"))


def test_there_are_enough_frames_domains_and_ambiguous_names():
    grammars = load_grammars()
    assert len({g.domain for g in grammars}) == len(grammars) >= 10
    assert sum(len(set(g.frames)) for g in grammars) >= 250
    assert len({name for name, _ in read_ambiguous(FOLDER / "ambiguous.txt")}) >= 300


def test_frames_of_each_domain_are_parted_without_overlap_in_the_documented_shares():
    everywhere = {split: set() for split in SPLITS}
    for g in load_grammars():
        made = split_frames(g.frames)
        assert sorted(f for part in made.values() for f in part) == sorted(set(g.frames))
        for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            # each border is rounded, so a part may be off by one frame
            assert abs(len(made[split]) - share * len(set(g.frames))) <= 1 and made[split]
            everywhere[split] |= set(made[split])
    assert not everywhere["train"] & everywhere["test"]
    assert not everywhere["train"] & everywhere["validation"]
    assert not everywhere["validation"] & everywhere["test"]


def test_a_frames_split_does_not_depend_on_the_order_of_the_file():
    frames = [f"frame {i}" for i in range(50)]
    assert split_frames(frames) == split_frames(frames[::-1]) == split_frames(frames + frames)


def slots(items, productions, where, found):
    """Collect the slots of items and all they may expand to; undefined productions fail."""
    for item in items:
        if isinstance(item, Choice):
            for alternative in item.alternatives:
                slots(alternative, productions, where, found)
        elif item.startswith("@") and len(item) > 1:
            assert item in productions, f"{where}: {item} is not defined"
            if item not in found["@"]:
                found["@"].add(item)
                slots((productions[item],), productions, where, found)
        elif item.startswith("{") and item.endswith("}"):
            found["{}"].add(item[1:-1])
    return found


def test_every_production_and_every_slot_resolves_in_all_branches():
    names = Names(FOLDER, "train", random.Random(0))
    kinds = {"per", "per.full", *names.lists}
    for g in load_grammars():
        for frame in g.frames:
            found = slots(parse(frame, g.domain), g.productions, f"{g.domain}: {frame}", {"@": set(), "{}": set()})["{}"]
            for slot in found:
                kind, _, name = slot.partition("=")
                assert not kind or kind in kinds, f"{g.domain}: {{{slot}}} in {frame}"
                if not kind:
                    assert any(f.endswith("=" + name.removesuffix(".last")) and f[0] != "=" for f in found), frame


@pytest.mark.parametrize("split", SPLITS)
def test_every_frame_expands_in_every_split(split):
    rng = random.Random(1)
    names = Names(FOLDER, split, rng)
    for g in load_grammars():
        expander = Expander(g.productions, names.draw, rng)
        for frame in g.frames:
            tagged = expander.frame(frame)
            assert tagged, frame
            assert to_iob2([tag for _, tag in tagged], "IOB2")[1] == 0


def test_every_gazetteer_has_names_for_every_split_and_every_pattern_resolves():
    for split in SPLITS:
        names = Names(FOLDER, split, random.Random(2))
        for kind, lines in names.lists.items():
            assert names.pools[split][kind], f"{kind}: no name for {split}"
            for pattern in names.patterns[kind]:
                words = [word for word, _ in names.expander.frame(pattern)]
                assert words and not any("{" in w or "}" in w for w in words), pattern
            assert len(set(lines)) == len(lines), f"{kind}: {[n for n, c in Counter(lines).items() if c > 1]} twice"


def test_every_kind_of_an_ambiguous_name_is_a_gazetteer():
    kinds = {f.stem for f in (FOLDER / "gazetteers").glob("*.txt")}
    rows = read_ambiguous(FOLDER / "ambiguous.txt")
    assert {kind for _, its in rows for kind in its} <= kinds
    types = [{kind.split(".")[0] for kind in its} for _, its in rows]
    assert sum(len(t) > 1 for t in types) >= 250  # ambiguous between entity types, not between kinds of one type alone


# A folder of one's own


@pytest.fixture
def own(tmp_path):
    """A corpus folder with 40 frames that each hold a word of their own, and 200 awards."""
    for name in ("frames", "gazetteers"):
        (tmp_path / name).mkdir()
    frames = [
        f"- Marker{chr(97 + i // 10)}{chr(97 + i % 10)} wonderful people celebrate {{misc.award}} and {{misc.award}} again"
        for i in range(40)
    ]
    (tmp_path / "frames" / "common.txt").write_text("# nothing\n", "utf-8")
    (tmp_path / "frames" / "talk.txt").write_text("\n".join(frames), "utf-8")
    awards = [f"{a}{b} Prize" for a in ("Qu", "Zy", "Xo", "Jo", "Ke", "Wi", "Vu", "Pa", "Ro", "Li") for b in AWARDS]
    (tmp_path / "gazetteers" / "misc.award.txt").write_text("\n".join(awards), "utf-8")
    (tmp_path / "ambiguous.txt").write_text("", "utf-8")
    return tmp_path


AWARDS = [f"{c}{v}n" for c in "bdfgklmnpr" for v in "ao"]


def markers(sentences):
    return {s.words[0].lower() for s in sentences if s.words[0].lower().startswith("marker")}


def test_sentences_come_from_the_frames_of_their_own_split(own):
    corpus = generate(0, {"train": 1000, "validation": 150, "test": 250}, own)
    frames = split_frames(load_grammars(own)[0].frames)
    for split, part in parts(corpus).items():
        expected = {f.split()[0].lower() for f in frames[split]}
        # the few slips of the fingers inside the marker itself aside, every sentence shows its frame
        plain = [s for s in part if s.words[1:4] == ("wonderful", "people", "celebrate") and s.words[0].istitle()]
        assert len(plain) > len(part) / 2
        assert expected <= markers(part)
        lost = Counter(s.words[0].lower() for s in part if s.words[0].lower() not in expected)
        assert sum(lost.values()) < 0.05 * len(part)
        assert not set(lost) & {f.split()[0].lower() for other in SPLITS if other != split for f in frames[other]}


def test_shares_of_disguised_sentences_are_the_documented_ones(own):
    count = 3000
    part = generate(1, {"train": count, "validation": 1, "test": 1}, own).train
    lower = sum(" ".join(s.words).islower() for s in part)
    upper = sum(" ".join(s.words).isupper() for s in part)
    known = {"wonderful", "people", "celebrate", "and", "again"}
    slips = sum(not {w.lower() for w, t in zip(s.words[1:], s.tags[1:], strict=True) if t == "O"} <= known for s in part)
    # Of the four words of five letters or more outside names, each slips with 0.2; a swap of like letters never shows,
    # and none of these words has one where it matters.
    misspelt = MISSPELT * (1 - 0.8**4)
    for found, share in ((lower, LOWER), (upper, UPPER), (slips, misspelt)):
        # 5 standard deviations; hardly a draw repeats, so that what is thrown away does not matter
        assert abs(found / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_every_frame_is_used_once_before_one_comes_again(own):
    train = split_frames(load_grammars(own)[0].frames)["train"]
    made = generate(2, {"train": len(train), "validation": 1, "test": 1}, own).train
    assert len({s.words[0].lower() for s in made}) == len(train)


@pytest.mark.parametrize("missing", [{"train": 5, "test": 5}, {"train": 5, "validation": 0, "test": 5}])
def test_each_split_needs_a_size(missing):
    with pytest.raises(ValueError, match=r"sizes\['validation'\] = (None|0): expected a number of sentences above 0"):
        generate(0, missing)


def test_too_few_frames_for_three_splits_is_an_error(own):
    (own / "frames" / "talk.txt").write_text("- one {misc.award}\n- two {misc.award}\n", "utf-8")
    with pytest.raises(CourseError, match=r"frames/talk.txt: 2 different frames at most, none is left for test"):
        generate(0, SMALL, own)


def test_more_sentences_than_can_be_told_apart_is_an_error_not_an_endless_loop(own):
    (own / "frames" / "talk.txt").write_text("\n".join(f"- word {i}" for i in range(20)), "utf-8")
    with pytest.raises(CourseError, match=r"^train: .* draws in a row gave no new sentence .* Ask for fewer sentences"):
        generate(0, SMALL, own)


@pytest.mark.parametrize("frame", ["( | )", " ".join(["long"] * (LONGEST + 1))])
def test_frames_that_give_empty_or_too_long_sentences_alone_are_an_error(own, frame):
    lines = [f"- {frame} " + "( | ) " * i for i in range(20)]  # twenty different ways to write the same
    (own / "frames" / "talk.txt").write_text("\n".join(lines), "utf-8")
    with pytest.raises(CourseError, match=rf"no new sentence of 1 to {LONGEST} words, 300 are still missing"):
        generate(0, SMALL, own)


def test_a_folder_without_frames_is_an_error(own):
    (own / "frames" / "talk.txt").unlink()
    with pytest.raises(CourseError, match=r"frames: no frames; expected files such as news.txt beside common.txt"):
        generate(0, SMALL, own)


def test_a_slot_without_a_gazetteer_is_an_error(own):
    (own / "frames" / "talk.txt").write_text("\n".join(f"- {i} {{loc.moon}}" for i in range(20)), "utf-8")
    with pytest.raises(CourseError, match=r"slot \{loc.moon\}: no such kind"):
        generate(0, SMALL, own)


# Slips of the fingers


@pytest.mark.parametrize("word", ["", "a", "door", "12345", "a.m.x", "don't", "two-year", "$$$$$"])
def test_short_words_and_what_is_no_word_are_spelt_right(word):
    assert all(misspell(word, random.Random(seed)) == word for seed in range(50))


def test_a_slip_swaps_drops_or_doubles_one_letter_inside_the_word():
    word, seen = "abcdefgh", set()
    for seed in range(500):
        slip = misspell(word, random.Random(seed))
        assert slip[0] == "a" and slip[-1] == "h" and slip != word
        seen.add(slip)
    inside = range(1, len(word) - 2)
    assert seen == (
        {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inside}
        | {word[:i] + word[i + 1 :] for i in inside}
        | {word[: i + 1] + word[i:] for i in inside}
    )


def test_gazetteer_lines_are_clean():
    for f in sorted((FOLDER / "gazetteers").glob("*.txt")):
        for line in read_lines(f):
            assert "\t" not in line and "  " not in line, f"{f.name}: {line!r}"
