"""``tiny``: a random two-layer BERT with a tokenizer of its own, so that tests need no weights from anywhere."""

import functools
import string
import tempfile
from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COMMON = "the of and to in a is was for on that with as at by from he she it they said mr new city club company ##s ##ed ##ing ##er".split()


def tiny_tokenizer():
    """A WordPiece tokenizer over letters, digits, marks and a few words; lower-cases, as ``minilm`` does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    characters = string.ascii_lowercase + string.digits
    pieces = SPECIAL + list(characters) + [f"##{c}" for c in characters] + list(string.punctuation) + COMMON
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


@functools.cache
def make_tiny() -> Path:
    """Write the tiny encoder to a temporary folder of this process and return it (the weights are always the same)."""
    import torch
    from safetensors.torch import save_file

    from course_lib.models.zoo import hugging_face

    tokenizer = tiny_tokenizer()
    library = hugging_face()
    config = library.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = library.BertModel(config)
    holder = tempfile.TemporaryDirectory(prefix="course-tiny-")
    _HOLDERS.append(holder)  # removed when the process ends
    folder = Path(holder.name)
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


_HOLDERS: list[tempfile.TemporaryDirectory] = []
