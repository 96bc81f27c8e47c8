"""Averaged logits: equal members change nothing, the mean is the mean, and the cost is that of all."""

import numpy as np
import pytest

from course_lib.data.conll import Sentence
from course_lib.deploy.ensemble import Ensemble, open_ensemble, score_ensemble
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

TAGS = ["O", "B-X", "I-X"]
SENTENCES = [Sentence(("the", "club", "said"), ("O", "B-X", "O")), Sentence(("mr", "smith"), ("O", "B-X"))]
IDS, MASK = np.array([[2, 7, 8, 3]]), np.ones((1, 4), dtype=np.int64)


def folder(path, seed, tags=TAGS):
    path.mkdir()
    save_model(load_token_classifier(find_encoder("tiny"), tags, seed), load_tokenizer(find_encoder("tiny")), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("ensemble")
    return [folder(root / str(seed), seed) for seed in (0, 1)]


def test_an_ensemble_of_equals_is_each_of_them_and_the_mean_is_weighted():
    one, two = (lambda ids, mask, v=v: np.full((*ids.shape, 2), v, np.float32) for v in (1.0, 5.0))
    assert np.array_equal(Ensemble([one, one])(IDS, MASK), one(IDS, MASK))
    assert np.array_equal(Ensemble([one, two])(IDS, MASK), np.full((1, 4, 2), 3.0, np.float32))
    assert np.array_equal(Ensemble([one, two], [3, 1])(IDS, MASK), np.full((1, 4, 2), 2.0, np.float32))


def test_folders_are_opened_together(folders):
    ensemble, tags = open_ensemble(folders, threads=1)
    assert tags == TAGS
    # one rounding of a half of float32 numbers
    assert np.allclose(ensemble(IDS, MASK), sum(m(IDS, MASK) for m in ensemble.members) / 2, rtol=1e-6, atol=1e-7)


def test_what_it_costs_is_the_sum_of_all(folders):
    found = score_ensemble(folders, SENTENCES, threads=1)
    members, both = found["members"], found["ensemble"]
    assert len(members) == 2 and all(0 <= row["f1"][0] <= 1 and row["ms"] > 0 for row in [*members, both])
    tokenizer = (folders[0] / "tokenizer.json").stat().st_size
    assert both["bytes"] == sum(m["bytes"] for m in members) - tokenizer > 1.5 * members[0]["bytes"]
    alone = score_ensemble(folders[:1], SENTENCES, threads=1)
    assert alone["ensemble"]["f1"] == alone["members"][0]["f1"] == members[0]["f1"]


def test_members_that_do_not_belong_together_are_refused(folders, tmp_path):
    other = folder(tmp_path / "tags", 2, ["O", "B-Y", "I-Y"])
    with pytest.raises(CourseError, match=r"says \['O', 'B-Y', 'I-Y'\].*expected the same tags"):
        open_ensemble([folders[0], other], 1)
    third = folder(tmp_path / "third", 3)
    (third / "tokenizer.json").write_text((third / "tokenizer.json").read_text().replace('"[MASK]"', '"[HIDE]"'))
    with pytest.raises(CourseError, match="another tokenizer"):
        open_ensemble([folders[0], third], 1)
    with pytest.raises(ValueError, match="members = 0"):
        Ensemble([])
    with pytest.raises(ValueError, match="weights"):
        Ensemble([lambda ids, mask: None], [0.0])
