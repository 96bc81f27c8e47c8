"""The stages of a compression run, each cached by a hash of everything that made it: data, weights, settings, code."""

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from math import gcd
from pathlib import Path

import torch
from tokenizers import Tokenizer

from course_lib.artifacts import code_digest, explained, file_sha256, new_folder, read_json, write_json, write_text
from course_lib.console import bar, say
from course_lib.data.align import IGNORED, Window, collate, make_windows, pad, pad_id
from course_lib.data.augment import changed_copies
from course_lib.data.generated import generate
from course_lib.data.texts import generate_texts
from course_lib.data.words import split_sentences, split_words
from course_lib.deploy.engines import FORMAT
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.distillation.agreement import check_tokenizers
from course_lib.distillation.objective import (
    LastHidden,
    TeacherTargets,
    distil_objective,
    soft_only_labels,
    teacher_targets,
)
from course_lib.errors import CourseError
from course_lib.models.surgery import head_groups, layer_shapes
from course_lib.models.zoo import CONFIG, TOKENIZER, find_encoder, load_token_classifier, load_tokenizer, model_tags, save_model
from course_lib.ner.train import hard_labels
from course_lib.pruning.scores import ffn_taylor_scores, weight_unit_scores
from course_lib.pruning.structure import best_units, drop_layers, encoder_layers, remove_ffn_neurons, remove_heads
from course_lib.pruning.unit_scores import group_taylor_scores
from course_lib.recipes.recipe import (
    Distil,
    DropLayers,
    Quantize,
    Recipe,
    RemoveFfnNeurons,
    RemoveHeads,
    TrimVocabulary,
    check_fit,
)
from course_lib.recipes.soup import greedy_soup
from course_lib.recipes.teacher import Context, Prepared, fit, make_teacher, max_pieces, validation_f1
from course_lib.redundancy.positions import trim_positions
from course_lib.redundancy.vocabulary import choose_pieces, count_pieces, trim_vocabulary
from course_lib.report import Report
from course_lib.tasks import NER, find_task

CODE = (  # what a student depends on beside the teacher's
    "pruning/scores.py", "pruning/structure.py", "pruning/unit_scores.py", "distillation/agreement.py", "distillation/losses.py",
    "distillation/objective.py", "redundancy/positions.py", "redundancy/vocabulary.py", "data/augment.py", "recipes/stages.py",
    "recipes/soup.py",
)  # fmt: skip


def check_recipe(encoder: str, recipe: Recipe, task: str = NER.name) -> None:
    """Refuse a recipe that the encoder or the task cannot follow, before anything is trained."""
    config = read_json(find_encoder(encoder) / CONFIG)
    shape = (config.get(key, 0) for key in ("num_hidden_layers", "intermediate_size", "num_attention_heads"))
    check_fit(recipe, *shape)
    for step in recipe.of(Distil):
        if step.copies and task != NER.name:
            raise CourseError(
                f"recipe {recipe.name!r}: distil: copies = {step.copies} swaps names, which labelled texts do not mark. Leave it out; "
                "text = FILE or generated = N give a teacher more to label."
            )
        if step.text and not Path(step.text).is_file():
            raise CourseError(f"recipe {recipe.name!r}: distil: text = {step.text!r} is no file. Expected plain text to label.")


def make_ensemble(context: Context, encoder: str, recipe: Recipe) -> list[Path]:
    """The teacher, and as many more as the recipe's distillation asks for, trained alike with the next seeds."""
    (distil,) = recipe.of(Distil)
    seeds = range(context.seed, context.seed + distil.ensemble)
    return [make_teacher(replace(context, seed=seed), encoder, recipe) for seed in seeds]


def make_student(context: Context, teachers: Path | Sequence[Path], recipe: Recipe) -> Path:
    """Cut the teacher down as the recipe says and distil it back; returns the student's folder.

    Args:
        teachers: the teacher's folder, which the student is cut from; further ones only add their logits (:func:`make_ensemble`).
    Raises:
        CourseError: teachers with other tags or another tokenizer than the first.
    """
    teachers = [teachers] if isinstance(teachers, Path) else list(teachers)
    students = _students(context, teachers, recipe)
    return students[0] if len(students) == 1 else make_soup(context, students, recipe)


class Answers:
    """What the teachers said to the windows they were last asked about, so that students of the same windows need not ask again.

    The seeds of a soup read the same windows unless the recipe asks for copies or generated text, which every seed draws anew. One
    answer is kept, as large as what the student in training holds anyway.
    """

    def __init__(self) -> None:
        self._windows: list[Window] = []
        self._targets: TeacherTargets | None = None

    def of(self, context: Context, teachers: Sequence, prepared: Prepared, values: bool) -> TeacherTargets:
        """What teachers say to the windows; ``values``: with value vectors. Always of the same teachers and the same ``values``."""
        if self._targets is None or prepared.windows != self._windows:
            self._windows, self._targets = prepared.windows, None  # the last answer's room is free before there is another
            with bar("teacher labels", len(prepared.windows)) as advance:
                padding = pad_id(prepared.tokenizer)
                self._targets = teacher_targets(teachers, prepared.windows, padding, context.bf16, advance, values)
        return self._targets


def _students(context: Context, teachers: list[Path], recipe: Recipe) -> list[Path]:
    (distil,) = recipe.of(Distil)
    answers, seeds = Answers(), range(context.seed, context.seed + distil.soup)
    return [_student(replace(context, seed=seed), teachers, recipe, answers) for seed in seeds]


def _student(context: Context, teachers: list[Path], recipe: Recipe, answers: Answers) -> Path:
    (distil,) = recipe.of(Distil)
    made_of = [asdict(s) for s in recipe.steps if not isinstance(s, Quantize)]
    text = file_sha256(Path(distil.text)) if distil.text else None
    target = context.cache.path(
        "student", [t.name for t in teachers], made_of, text, context.bf16, *context.training_key(*CODE)
    )
    if context.cache.ready(target):
        return target
    models, tokenizers = [load_token_classifier(t) for t in teachers], [load_tokenizer(t) for t in teachers]
    check_tokenizers(tokenizers, [str(t) for t in teachers])
    tokenizer = tokenizers[0]
    for step in recipe.of(TrimVocabulary):
        tokenizer = trim(context, models, tokenizer, step)
    model = models[0]
    prepared = with_soft_labels(context, distil, tokenizer, model)
    targets = answers.of(context, models, prepared, values=distil.relation_weight > 0)
    for step in recipe.steps:
        report = cut(context, model, prepared, step)
        if report:
            say(str(report))
    listener = LastHidden(model)
    weights = distil.hard_weight, distil.hidden_weight, distil.relation_weight
    heads = gcd(model.config.num_attention_heads, layer_shapes(model)["heads"][-1])  # into which both widths can be cut
    objective = distil_objective(listener, targets, distil.temperature, *weights, heads)
    fit(context, "student", model, prepared, context.settings(distil), target, objective, recipe.text)
    listener.remove()
    return target


def cut(context: Context, model, prepared: Prepared, step: object) -> Report | None:
    """Take one step that makes the layers smaller, in place; None for steps of another kind."""
    if isinstance(step, DropLayers):
        return drop_layers(model, step.keep or best_layers(context, model, prepared, step.count))
    if isinstance(step, RemoveHeads):
        return remove_heads(model, choose_heads(model, step, prepared))
    if isinstance(step, RemoveFfnNeurons):
        return remove_ffn_neurons(model, choose_neurons(model, step, prepared))
    return None


def with_soft_labels(context: Context, distil: Distil, tokenizer: Tokenizer, model) -> Prepared:
    """The training windows, then those of the text that only the teacher labels (:func:`soft_only_labels`)."""
    limit = max_pieces(model)
    prepared = Prepared.of(context.corpus, tokenizer, model_tags(model), limit)
    task = find_task(context.corpus.task)
    words = changed_copies(context.corpus.train, distil.copies, context.seed) if distil.copies else []
    if distil.generated:  # of another seed than the corpus, whose validation and test sentences must not come back as text
        make = generate if task is NER else generate_texts
        words += [s.words for s in make(context.seed + 1, {"train": distil.generated, "validation": 1, "test": 1}).train]
    if distil.text:
        split = split_sentences if task is NER else (lambda line: [split_words(line)])  # a line is a text to classify
        words += [tuple(w.text for w in s) for line in read_text(Path(distil.text)) for s in split(line)]
    windows = make_windows(words, tokenizer, limit)
    labels = soft_only_labels(windows, task.read_at)
    return replace(prepared, windows=prepared.windows + windows, labels=prepared.labels + labels)


def read_text(path: Path) -> list[str]:
    """The lines of a text file that hold anything.

    Raises:
        CourseError: it cannot be read, or is not UTF-8.
    """
    with explained(path):
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CourseError(
                f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Convert the text to UTF-8."
            ) from error
    return [line for line in lines if line.strip()]


def trim(context: Context, models: Sequence, tokenizer: Tokenizer, step: TrimVocabulary) -> Tokenizer:
    """Trim the vocabulary and positions of models that share a tokenizer, in place; the new tokenizer.

    What says so to a student reads with the same pieces: of a teacher that keeps all pieces the text needs, nothing changes.
    """
    counts = count_pieces([s.words for s in context.corpus.train], tokenizer)
    keep = choose_pieces(counts, tokenizer, step.most or None, characters=step.characters or None)
    for model in models:
        smaller, report = trim_vocabulary(model, tokenizer, keep)
        say(str(report))
        if step.positions:
            say(str(trim_positions(model, step.positions)))
    return smaller


def best_layers(context: Context, model, prepared: Prepared, count: int) -> list[int]:
    """The ``count`` layers that keep the highest validation F1 when the others are bypassed, nothing being trained again."""
    choices = list(combinations(range(len(encoder_layers(model))), count))
    with bar("which layers", len(choices)) as advance:
        scores = []
        for keep in choices:
            smaller = copy.deepcopy(model)
            drop_layers(smaller, keep)
            scores.append(validation_f1(context, smaller, prepared))
            advance()
    best = list(choices[scores.index(max(scores))])
    say(f"  layers {best}: validation F1 {max(scores):.4f} as they are; the worst choice has {min(scores):.4f}")
    return best


def choose_heads(model, step: RemoveHeads, prepared: Prepared) -> list[torch.Tensor]:
    """The attention heads to keep in each layer, by the gradient at their gates."""
    groups = head_groups(model)
    scores = group_taylor_scores(model, _losses(model, prepared, step.sentences), groups).absolute
    return [best_units(scores[group.name], step.keep) for group in groups]


def make_soup(context: Context, students: Sequence[Path], recipe: Recipe) -> Path:
    """A greedy soup: weights of students averaged, the best first, each kept only where validation F1 does not fall."""
    target = context.cache.path("soup", [s.name for s in students], code_digest(*CODE))
    if context.cache.ready(target):
        return target
    models = [load_token_classifier(s) for s in students]
    tokenizer = load_tokenizer(students[0])
    prepared = Prepared.of(context.corpus, tokenizer, model_tags(models[0]), max_pieces(models[0]))
    soup, log = greedy_soup(models, lambda m: validation_f1(context, m, prepared))
    for row in log:
        say(f"  soup of {row['members']}: validation F1 {row['validation_f1']:.4f}{'' if row['kept'] else ', not kept'}")
    with new_folder(target) as folder:
        save_model(soup, tokenizer, folder)
        write_json(folder / "history.json", {"soup": [s.name for s in students], "log": log})
        write_text(folder / "recipe.toml", recipe.text)
    return target


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
    code = code_digest("deploy/export.py", "deploy/embeddings.py", "deploy/norms.py")
    versions = [onnx.__version__, onnxruntime.__version__, str(torch.__version__), code]
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
        write_json(folder / CONFIG, {**read_json(model / CONFIG), "course_format": FORMAT})
        shutil.copyfile(model / TOKENIZER, folder / TOKENIZER)
        write_text(folder / "recipe.toml", recipe.text)
    return target
