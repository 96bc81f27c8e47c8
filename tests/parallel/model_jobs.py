"""What worker processes compute in the tests of tensor and pipeline parallelism: split models beside the whole one."""

import torch
from torch import nn

from course_lib.models.zoo import find_encoder, hugging_face, load_token_classifier
from course_lib.parallel.pipeline import token_loss

TAGS = ["O", "B-X", "I-X"]
WORDS = 1999  # a prime number, so that no number of workers divides it
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def drawn_batch(vocabulary: int, sentences: int = 7, length: int = 12, seed: int = 1) -> Batch:
    """Ids, mask and labels of sentences of different lengths; labels are −100 at padding and at every third piece."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (sentences, length), generator=generator)
    lengths = length - torch.arange(sentences) % (length // 2)
    mask = (torch.arange(length) < lengths[:, None]).long()
    labels = torch.randint(0, len(TAGS), ids.shape, generator=generator)
    return ids, mask, labels.masked_fill((mask == 0) | (torch.arange(length) % 3 == 2), -100)


def small(kind: str = "TokenClassification", layers: int = 4, heads: int = 4, neurons: int = 64) -> nn.Module:
    """A random BERT, D = 32, fp64, without dropout, whose weights and biases are large enough for each of them to matter."""
    library = hugging_face()
    torch.manual_seed(0)
    config = library.BertConfig(
        vocab_size=130, hidden_size=8 * heads, num_hidden_layers=layers, num_attention_heads=heads, num_labels=len(TAGS),
        intermediate_size=neurons, initializer_range=0.2,
    )  # fmt: skip
    model = getattr(library, f"BertFor{kind}")(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def real() -> nn.Module:
    """The encoder of 6 layers, 12 heads and FFN 1536 with a new head, fp64; of its words only the first, to spare memory."""
    model = load_token_classifier(find_encoder("minilm"), TAGS)
    words = model.get_input_embeddings()
    model.set_input_embeddings(nn.Embedding.from_pretrained(words.weight[:WORDS].clone(), freeze=False, padding_idx=0))
    return model.double().eval()


def one_process(model: nn.Module, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients without any parallelism; the model's gradients are empty again afterwards."""
    ids, mask, labels = batch
    loss = token_loss(model(input_ids=ids, attention_mask=mask).logits, labels) / (labels != -100).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return float(loss.detach()), gradients


def tolerance(model: nn.Module, batch: Batch) -> float:
    """How far results may be apart, relative to the largest gradient, for the order of summation alone.

    A sum of n terms in another order differs by up to n·ε of its terms' size. On the longest way through the model and back
    the sums of a layer are over D (query, output, and feed-forward in), d and L (scores, mixing) and F (feed-forward out), each
    forward and twice backward (for inputs and weights); those of weights are over B·L pieces.
    """
    config, pieces = model.config, batch[0].numel()
    d = config.hidden_size // config.num_attention_heads
    layer = 3 * config.hidden_size + d + batch[0].shape[1] + config.intermediate_size
    return torch.finfo(torch.float64).eps * (3 * config.num_hidden_layers * layer + pieces)


def distance(found: dict[str, torch.Tensor], due: dict[str, torch.Tensor]) -> float:
    """The largest difference in any entry of those tensors that this worker has, relative to the largest entry of all."""
    assert found.keys() <= due.keys(), found.keys() - due.keys()
    assert all(found[name].shape == due[name].shape for name in found)
    largest = max(float(t.abs().max()) for t in due.values())
    return max(float((found[name] - due[name]).abs().max()) for name in found) / largest


def refused(call) -> str:
    """The message with which a call is refused."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"
