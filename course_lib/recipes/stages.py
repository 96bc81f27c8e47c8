"""The stages of a compression run, each cached by a hash of everything that made it: data, weights, settings, code."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from course_lib.artifacts import Cache, code_digest, file_sha256, new_folder, read_json, write_json, write_text
from course_lib.console import bar, say
from course_lib.data.align import IGNORED, Window, collate, make_windows, pad, pad_id, window_labels
from course_lib.data.corpus import Corpus
from course_lib.deploy import engines
from course_lib.deploy.engines import TorchEngine
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.distillation.objective import LastHidden, distil_objective, teacher_targets
from course_lib.machine import fast_bf16
from course_lib.models.zoo import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    find_encoder,
    load_token_classifier,
    load_tokenizer,
    model_tags,
    save_model,
)
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.ner.train import Objective, Settings, hard_labels, train
from course_lib.pruning.scores import ffn_taylor_scores, weight_unit_scores
from course_lib.pruning.structure import best_units, drop_layers, encoder_layers, remove_ffn_neurons
from course_lib.recipes.recipe import (
    Distil,
    DropLayers,
    Quantize,
    Recipe,
    RemoveFfnNeurons,
    Training,
    TrimVocabulary,
    check_fit,
)
from course_lib.redundancy.vocabulary import choose_pieces, count_pieces, trim_vocabulary
from course_lib.report import Report


@dataclass
class Context:
    """What all stages share.

    Attributes:
        corpus: the data.
        cache: where finished stages are.
        seed: of heads, batches and dropout.
        threads: of PyTorch; another number gives other last bits, so it is part of the keys.
        bf16: train under bf16 autocast.
    """

    corpus: Corpus
    cache: Cache
    seed: int
    threads: int
    bf16: bool

    @classmethod
    def create(cls, corpus: Corpus, cache: Cache, seed: int, threads: int, bf16: bool | None = None) -> "Context":
        """A context; ``bf16=None`` asks the processor whether bf16 training pays here."""
        torch.set_num_threads(threads)
        return cls(corpus, cache, seed, threads, fast_bf16() if bf16 is None else bf16)

    def settings(self, row: Training | Distil) -> Settings:
        """Training settings of a recipe's row."""
        chosen = {k: v for k, v in asdict(row).items() if k in Settings.__dataclass_fields__}
        return Settings(**chosen, bf16=self.bf16, seed=self.seed)

    def training_key(self) -> list:
        """What a trained model depends on beside its settings and parents."""
        code = code_digest("data", "models", "ner", "pruning", "distillation", "redundancy", "recipes/stages.py")
        return [self.corpus.fingerprint(), self.seed, self.threads, str(torch.__version__), code]


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
        labels = [window_labels(w, corpus.train[w.sentence].tags, index) for w in windows]
        return cls(tokenizer, tags, windows, labels)


def _fit(
    context: Context, name: str, model, prepared: Prepared, settings: Settings, target: Path, objective: Objective, made: str
) -> None:
    """Train with a progress bar and write the finished model folder ``target``; checkpoints live beside it."""
    validation, tokenizer = context.corpus.validation, prepared.tokenizer
    gold = [s.tags for s in validation]

    def validate(candidate) -> float:
        engine = TorchEngine(candidate, settings.bf16)
        return entity_f1(
            gold, predict_tags([s.words for s in validation], engine, tokenizer, prepared.tags, max_pieces=max_pieces(model))
        )

    work = target.with_name(target.name + ".training")
    if context.cache.force:
        shutil.rmtree(work, ignore_errors=True)
    precision = "bf16 autocast" if settings.bf16 else "fp32"
    say(f"{name}: {len(prepared.windows)} sentences, {settings.epochs} epochs in {precision}, {context.threads} threads")
    with bar(name) as advance:

        def progress(event: dict) -> None:
            advance(completed=event["step"], total=event["steps"], note=f"loss {event['loss']:.3f}")
            if "f1" in event:
                say(f"  epoch {event['epoch']}: loss {event['loss']:.4f}, validation F1 {event['f1']:.4f}")

        history = train(
            model, prepared.windows, prepared.labels, pad_id(tokenizer), validate, settings, work, objective, progress
        )
    with new_folder(target) as folder:
        save_model(model, tokenizer, folder)
        write_json(folder / "history.json", {"settings": asdict(settings), "threads": context.threads, "epochs": history})
        write_text(folder / "recipe.toml", made)
    shutil.rmtree(work)


def max_pieces(model) -> int:
    """Pieces the model can read at once, special tokens included."""
    return engines.max_pieces(model.config.to_dict())


def check_recipe(encoder: str, recipe: Recipe) -> None:
    """Refuse a recipe that the encoder cannot follow, before anything is trained."""
    config = read_json(find_encoder(encoder) / CONFIG)
    check_fit(recipe, config.get("num_hidden_layers", 0), config.get("intermediate_size", 0))


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
    prepared = Prepared.of(context.corpus, tokenizer, context.corpus.tags, max_pieces(model))
    _fit(
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


def make_student(context: Context, teacher: Path, recipe: Recipe) -> Path:
    """Cut the teacher down as the recipe says and distil it back; returns the student's folder."""
    (distil,) = recipe.of(Distil)
    target = context.cache.path(
        "student", teacher.name, [asdict(s) for s in recipe.steps[:-1]], context.bf16, *context.training_key()
    )
    if context.cache.ready(target):
        return target
    model, tokenizer = load_token_classifier(teacher), load_tokenizer(teacher)
    prepared = Prepared.of(context.corpus, tokenizer, model_tags(model), max_pieces(model))
    with bar("teacher labels", len(prepared.windows)) as advance:
        targets = teacher_targets(model, prepared.windows, pad_id(tokenizer), context.bf16, advance)
    for step in recipe.steps:
        if isinstance(step, TrimVocabulary):
            prepared, report = trim(context, model, prepared, step)
            say(str(report))
        elif isinstance(step, DropLayers):
            say(str(drop_layers(model, step.keep)))
        elif isinstance(step, RemoveFfnNeurons):
            say(str(remove_ffn_neurons(model, choose_neurons(model, step, prepared))))

    listener = LastHidden(model)
    objective = distil_objective(listener, targets, distil.temperature, distil.hard_weight, distil.hidden_weight)
    _fit(context, "student", model, prepared, context.settings(distil), target, objective, recipe.text)
    listener.remove()
    return target


def trim(context: Context, model, prepared: Prepared, step: TrimVocabulary) -> tuple[Prepared, Report]:
    """Trim the vocabulary to the training text; the training sentences, with the new numbers of the same pieces."""
    counts = count_pieces([s.words for s in context.corpus.train], prepared.tokenizer)
    keep = choose_pieces(counts, prepared.tokenizer, characters=step.characters or None)
    tokenizer, report = trim_vocabulary(model, prepared.tokenizer, keep)
    return Prepared.of(context.corpus, tokenizer, prepared.tags, max_pieces(model)), report


def choose_neurons(model, step: RemoveFfnNeurons, prepared: Prepared) -> list[torch.Tensor]:
    """The feed-forward neurons to keep in each layer, by the score the recipe names."""
    if step.score == "weight":
        scores = [
            weight_unit_scores(layer.intermediate.dense.weight.detach(), layer.output.dense.weight.detach())
            for layer in encoder_layers(model)
        ]
    elif step.score == "taylor":
        scores = ffn_taylor_scores(model, _losses(model, prepared, step.sentences))
    else:
        raise ValueError(f"score = {step.score!r}: expected 'taylor' or 'weight'")
    return [best_units(s, step.keep) for s in scores]


def _losses(model, prepared: Prepared, count: int) -> Iterator[torch.Tensor]:
    for start in range(0, min(count, len(prepared.windows)), 16):
        chunk = slice(start, min(start + 16, count))
        ids, mask = collate(prepared.windows[chunk], pad_id(prepared.tokenizer))
        labels = torch.from_numpy(pad(prepared.labels[chunk], IGNORED))
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        yield hard_labels(logits, labels, [])


def make_onnx(context: Context, model: Path, recipe: Recipe, int8: bool) -> Path:
    """A folder to ship: ``model.onnx`` in fp32 or int8 with config, tokenizer and recipe; returns it."""
    import onnx
    import onnxruntime

    (quantize,) = recipe.of(Quantize)
    versions = [onnx.__version__, onnxruntime.__version__, str(torch.__version__), code_digest("deploy/export.py")]
    made_of = [model.name, asdict(quantize) if int8 else None, recipe.text, versions]
    target = context.cache.path("int8" if int8 else "onnx", *made_of)
    if context.cache.ready(target):
        return target
    source = None if not int8 else make_onnx(context, model, recipe, int8=False)
    say(f"{'quantizing' if int8 else 'exporting'} {model.name}")
    with new_folder(target) as folder:
        if source is None:
            fused = export_onnx(model, folder / "model.onnx")
        else:
            fused = quantize_onnx(source / "model.onnx", folder / "model.onnx", **asdict(quantize))
        say("  " + ", ".join(f"{count} {name}" for name, count in sorted(fused.items())))
        for name in (CONFIG, TOKENIZER):
            shutil.copyfile(model / name, folder / name)
        write_text(folder / "recipe.toml", recipe.text)
    return target
