"""Position trimming: equal logits for sentences that fit, a saved model that loads, and refusals."""

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.redundancy.positions import trim_positions

TAGS = ["O", "B-PER"]


@pytest.fixture
def model():
    return load_token_classifier(find_encoder("tiny"), TAGS, seed=0).eval()


def test_sentences_that_fit_give_the_same_logits_and_the_rest_does_not_fit(model, tmp_path):
    ids = torch.randint(5, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    before = model(ids).logits
    report = trim_positions(model, 16)
    assert torch.equal(model(ids).logits, before), "the same numbers go through the same operations"
    assert report.parameters_before - report.parameters_after == (512 - 16) * 32
    assert model.config.max_position_embeddings == 16
    with pytest.raises((RuntimeError, IndexError)):
        model(torch.ones(1, 17, dtype=torch.long))
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    assert torch.equal(load_token_classifier(tmp_path).eval()(ids).logits, before)


@pytest.mark.parametrize("count", [0, -1, 513])
def test_a_count_that_cannot_be_is_refused(model, count):
    with pytest.raises(ValueError, match=f"count = {count}: expected between 1 and 512 positions"):
        trim_positions(model, count)


def test_a_model_without_such_a_table_is_refused(model):
    del model.base_model.embeddings.position_embeddings
    with pytest.raises(CourseError, match="expected a BERT-like encoder"):
        trim_positions(model, 8)
