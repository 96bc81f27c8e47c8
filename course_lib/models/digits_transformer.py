"""A small Transformer encoder for the digits, built like BERT, so that heads and layers can be tried out in seconds."""

import torch
from torch import nn


class DigitsTransformer(nn.Module):
    """Eight tokens, the rows of an image; a BERT encoder over them; the mean over tokens is classified.

    Takes images (B, 1, 8, 8), returns logits (B, 10). ``base_model`` and ``config`` are named as in transformers, so that
    :mod:`course_lib.models.surgery` knows its layers.
    """

    def __init__(self, config: object) -> None:
        from course_lib.models.zoo import hugging_face

        super().__init__()
        self.config = config
        self.rows = nn.Linear(8, config.hidden_size)
        self.base_model = hugging_face().BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, 8, 8) → (B, 10)."""
        hidden = self.base_model(inputs_embeds=self.rows(images[:, 0])).last_hidden_state  # (B, 8, D)
        return self.classifier(hidden.mean(dim=1))


def digits_transformer(
    seed: int = 0, layers: int = 3, width: int = 64, heads: int = 8, neurons: int = 256
) -> DigitsTransformer:
    """A network whose weights are drawn by ``seed``; without dropout.

    Args:
        layers, width, heads, neurons: its sizes; ``heads`` divides ``width``.
    """
    from course_lib.models.zoo import hugging_face

    config = hugging_face().BertConfig(
        vocab_size=1, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=neurons,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.1,  # BERT's own .02 suits a width of 768: narrower layers learn slowly with it
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitsTransformer(config)
