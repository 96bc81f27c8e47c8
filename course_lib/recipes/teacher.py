"""The first stage of a compression run: a corpus with its settings, and the encoder fine-tuned on it, the teacher."""

import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from course_lib.artifacts import Cache, code_digest, file_sha256, new_folder, write_json, write_text
from course_lib.console import bar, say
from course_lib.data.align import Window, make_windows, pad_id
from course_lib.data.corpus import Corpus
from course_lib.deploy import engines
from course_lib.deploy.engines import TorchEngine
from course_lib.machine import fast_bf16
from course_lib.models.zoo import CONFIG, TOKENIZER, WEIGHTS, find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.train import Objective, Settings, hard_labels, train
from course_lib.recipes.recipe import Distil, Recipe, Training
from course_lib.tasks import NER, find_task
from course_lib.tracking import Tracker

CODE = (  # what a trained teacher depends on; its key names these files alone, so that it outlives changes elsewhere
    "data/align.py", "models/zoo.py", "models/surgery.py", "models/groups.py", "ner/train.py", "ner/checkpoint.py", "ner/predict.py",
    "ner/evaluate.py", "recipes/teacher.py",
)  # fmt: skip


@dataclass
class Context:
    """What all stages share.

    Attributes:
        corpus: the data.
        cache: where finished stages are.
        seed: of heads, batches and dropout.
        threads: of PyTorch; another number gives other last bits, so it is part of the keys.
        bf16: train under bf16 autocast.
        tracker: where losses and F1 are written as TensorBoard event files; nowhere by default.
    """

    corpus: Corpus
    cache: Cache
    seed: int
    threads: int
    bf16: bool
    tracker: Tracker = field(default_factory=Tracker)

    @classmethod
    def create(cls, corpus: Corpus, cache: Cache, seed: int, threads: int, bf16: bool | None = None) -> "Context":
        """A context; ``bf16=None`` asks the processor whether bf16 training pays here."""
        torch.set_num_threads(threads)
        return cls(corpus, cache, seed, threads, fast_bf16() if bf16 is None else bf16)

    def settings(self, row: Training | Distil) -> Settings:
        """Training settings of a recipe's row."""
        chosen = {k: v for k, v in asdict(row).items() if k in Settings.__dataclass_fields__}
        return Settings(**chosen, bf16=self.bf16, seed=self.seed)

    def training_key(self, *more: str) -> list:
        """What a trained model depends on beside its settings and parents; ``more`` names further files of code."""
        return [self.corpus.fingerprint(), self.seed, self.threads, str(torch.__version__), code_digest(*CODE, *more)]


@dataclass
class Prepared:
    """Training sentences as windows with labels."""

    tokenizer: Tokenizer
    tags: list[str]
    windows: list[Window]
    labels: list[list[int]]

    @classmethod
    def of(cls, corpus: Corpus, tokenizer: Tokenizer, tags: list[str], max_pieces: int) -> "Prepared":
        """Align the training sentences of a corpus."""
        windows = make_windows([s.words for s in corpus.train], tokenizer, max_pieces)
        index = {tag: i for i, tag in enumerate(tags)}
        labels = [find_task(corpus.task).labels(w, corpus.train[w.sentence], index) for w in windows]
        return cls(tokenizer, tags, windows, labels)


def validation_f1(context: Context, model, prepared: Prepared) -> float:
    """Validation F1 (for a classifier its accuracy) of a model in PyTorch, under bf16 autocast where it is trained so."""
    gold, words = [s.tags for s in context.corpus.validation], [s.words for s in context.corpus.validation]
    engine = TorchEngine(model, context.bf16)
    predict = find_task(context.corpus.task).predict
    return entity_f1(gold, predict(words, engine, prepared.tokenizer, prepared.tags, max_pieces=max_pieces(model)))


def fit(
    context: Context, name: str, model, prepared: Prepared, settings: Settings, target: Path, objective: Objective, made: str
) -> None:
    """Train with a progress bar and write the finished model folder ``target``; checkpoints live beside it."""
    tokenizer = prepared.tokenizer
    work = target.with_name(target.name + ".training")
    if context.cache.force:
        shutil.rmtree(work, ignore_errors=True)
    precision = "bf16 autocast" if settings.bf16 else "fp32"
    say(f"{name}: {len(prepared.windows)} sentences, {settings.epochs} epochs in {precision}, {context.threads} threads")
    with bar(name) as advance:

        def progress(event: dict) -> None:
            advance(completed=event["step"], total=event["steps"], note=f"loss {event['loss']:.3f}")
            context.tracker.step(target.name, event)
            if "f1" in event:
                say(f"  epoch {event['epoch']}: loss {event['loss']:.4f}, validation F1 {event['f1']:.4f}")

        validate = partial(validation_f1, context, prepared=prepared)
        history = train(
            model, prepared.windows, prepared.labels, pad_id(tokenizer), validate, settings, work, objective, progress
        )
    context.tracker.weights(target.name, model, len(history))
    with new_folder(target) as folder:
        save_model(model, tokenizer, folder)
        write_json(folder / "history.json", {"settings": asdict(settings), "threads": context.threads, "epochs": history})
        write_text(folder / "recipe.toml", made)
    shutil.rmtree(work)


def max_pieces(model) -> int:
    """Pieces the model can read at once, special tokens included."""
    return engines.max_pieces(model.config.to_dict())


def make_teacher(context: Context, encoder: str, recipe: Recipe, pretrained: bool = True) -> Path:
    """Fine-tune the encoder on the corpus (or train its bare architecture, without ``pretrained``); returns its folder."""
    source = find_encoder(encoder)
    settings = context.settings(recipe.teacher)
    parents = [file_sha256(source / f) for f in (CONFIG, WEIGHTS, TOKENIZER)]
    target = context.cache.path("teacher" if pretrained else "scratch", parents, asdict(settings), *context.training_key())
    if context.cache.ready(target):
        return target
    tokenizer = load_tokenizer(source)
    model = load_token_classifier(source, context.corpus.tags, context.seed, pretrained)
    if context.corpus.task != NER.name:  # the config of an NER model is what it always was
        model.config.course_task = context.corpus.task
    prepared = Prepared.of(context.corpus, tokenizer, context.corpus.tags, max_pieces(model))
    fit(
        context,
        "teacher" if pretrained else "same architecture, random weights",
        model,
        prepared,
        settings,
        target,
        hard_labels,
        recipe.text,
    )
    return target
