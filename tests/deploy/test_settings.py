"""Settings of ONNX Runtime change how a file runs and not what it computes."""

import numpy as np
import pytest

from course_lib.deploy.export import export_plain
from course_lib.deploy.settings import LEVELS, TunedEngine, open_session
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_model(
        load_token_classifier(find_encoder("tiny"), ["O", "B-LOC", "I-LOC"], seed=3),
        load_tokenizer(find_encoder("tiny")),
        folder,
    )
    export_plain(folder, folder / "plain.onnx")
    return folder / "plain.onnx"


def test_no_setting_changes_the_logits(file):
    ids = np.random.default_rng(0).integers(5, 100, (2, 9))
    mask = np.ones_like(ids)
    reference = TunedEngine(file, 1, level="none")(ids, mask)
    others = [TunedEngine(file, 1, level=level) for level in LEVELS[1:]]
    others += [TunedEngine(file, 2, spinning=False), TunedEngine(file, 1, without=["SkipLayerNormFusion"])]
    # logits of order 1 through 2 layers of sums of at most 64 float32 products, added in another order: far below 1e-4
    assert reference.shape == (2, 9, 3) and all(np.abs(e(ids, mask) - reference).max() < 1e-4 for e in others)


def test_bad_settings_are_named(file):
    with pytest.raises(ValueError, match="level = 'most': expected one of none, basic, extended, all"):
        open_session(file, 1, level="most")
    with pytest.raises(ValueError, match="threads = 0: expected at least 1"):
        open_session(file, 0)
