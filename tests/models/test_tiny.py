"""The encoder for tests: always the same, complete, and with a tokenizer that leaves no plain text unknown."""

import string

import torch
from safetensors.torch import load_file

from course_lib.models.tiny import make_tiny, tiny_tokenizer
from course_lib.models.zoo import find_encoder, load_encoder


def test_its_weights_do_not_depend_on_the_state_of_the_generator_and_leave_it_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make_tiny.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other = make_tiny.__wrapped__()
    assert one != other
    assert all((one / f.name).read_bytes() == f.read_bytes() for f in other.iterdir())


def test_it_is_made_once_and_every_tensor_of_its_file_is_used():
    assert find_encoder("tiny") == find_encoder("tiny")
    stored, model = load_file(find_encoder("tiny") / "model.safetensors"), load_encoder("tiny")
    assert stored.keys() == model.state_dict().keys()
    assert model.config.vocab_size == tiny_tokenizer().get_vocab_size()
    assert sum(p.numel() for p in model.parameters()) < 100_000


def test_every_printable_ascii_text_has_pieces_and_none_is_unknown():
    tokenizer = tiny_tokenizer()
    for character in string.ascii_letters + string.digits + string.punctuation:
        tokens = tokenizer.encode(character, add_special_tokens=False).tokens
        assert tokens == [character.lower()]
    text = "Mr. O'Neill, 42, visited new clubs (twice)!"
    encoded = tokenizer.encode(text)
    assert encoded.tokens[0] == "[CLS]" and encoded.tokens[-1] == "[SEP]" and "[UNK]" not in encoded.tokens
    assert tokenizer.decode(encoded.ids[1:-1]) == "mr. o ' neill, 42, visited new clubs ( twice )!"
    assert tokenizer.encode("☃", add_special_tokens=False).tokens == ["[UNK]"]
