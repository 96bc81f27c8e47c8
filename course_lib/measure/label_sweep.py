"""The sweep of lesson 15: the encoder fine-tuned briefly with word pieces labelled in five ways."""

from course_lib.data.labelling import all_pieces, by_position, first_pieces, rest_outside, specials_outside
from course_lib.measure.sweeps import Sweep

WAYS = {f.__name__: f for f in (first_pieces, by_position, all_pieces, rest_outside, specials_outside)}
SENTENCES = {"train": 600, "validation": 400}
POINTS = [{"way": way, "seed": seed} for way in WAYS for seed in (0, 1, 2)]


def fine_tune(way, seed: int, encoder: str, training: list, validation: list, epochs: int):
    """A :class:`course_lib.ner.label_trial.Trial` of an encoder with a new head and labels of one way."""
    from course_lib.data.tags import tag_list
    from course_lib.machine import fast_bf16
    from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
    from course_lib.ner.label_trial import try_labels
    from course_lib.ner.train import Settings

    folder = find_encoder(encoder)
    model = load_token_classifier(folder, tag_list(s.tags for s in training), seed)
    settings = Settings(epochs, learning_rate=5e-4, freeze_embeddings=True, bf16=fast_bf16(), seed=seed)
    return try_labels(way, model, load_tokenizer(folder), training, validation, settings)


def run(point: dict) -> dict:
    """The figures of a point: labels, accuracy and F1 as the recipe reports them, and F1 on words."""
    from course_lib.data.generated import generate

    corpus = generate(0)
    training, validation = corpus.train[: SENTENCES["train"]], corpus.validation[: SENTENCES["validation"]]
    trial = fine_tune(WAYS[point["way"]], point["seed"], "minilm", training, validation, epochs=4)
    return {"labels": trial.labels, "own_accuracy": trial.own_accuracy, "own_f1": trial.own_f1, "f1": trial.interval}


SWEEP = Sweep(
    "word_piece_labels",
    "15_bert_ner_baseline",
    POINTS,
    run,
    ("measure/label_sweep.py", "ner/label_trial.py", "data/labelling.py", "ner/train.py"),
    "95 % bootstrap over 400 validation sentences",
)
