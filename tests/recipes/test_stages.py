"""The stages of a compression run: what each makes, what it depends on, and that it is made once."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer

from course_lib.artifacts import Cache
from course_lib.data.align import IGNORED, make_windows
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.deploy.engines import FORMAT, TorchEngine
from course_lib.distillation.objective import SOFT_ONLY
from course_lib.errors import CourseError
from course_lib.machine import fast_bf16
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, model_tags, save_model
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.pruning.structure import encoder_layers
from course_lib.recipes import stages
from course_lib.recipes import teacher as teacher_stage
from course_lib.recipes.recipe import (
    Distil,
    DropLayers,
    Quantize,
    Recipe,
    RemoveFfnNeurons,
    RemoveHeads,
    Training,
    TrimVocabulary,
)
from course_lib.recipes.stages import check_recipe, make_onnx, make_student, trim
from course_lib.recipes.teacher import Context, Prepared, make_teacher, max_pieces
from course_lib.tracking import Tracker

MODEL = {"config.json", "model.safetensors", "tokenizer.json", "recipe.toml", "history.json"}
RECIPE = Recipe(
    "mine",
    Training(epochs=2, batch_size=8, learning_rate=5e-3),
    (DropLayers([1]), RemoveFfnNeurons(8, "weight"), Distil(epochs=1, batch_size=8, learning_rate=1e-9), Quantize()),
    "# the text of the recipe\n",
)


def sentences(count, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        name, place = rng.choice("Ana Bob Cid Dee Eve".split()), rng.choice("Rome Oslo Lima Bern".split())
        words, tags = ("Mr", name, "was", "in", place), ("O", "B-PER", "O", "O", "B-LOC")
        cut = rng.choice((2, 3, 5))
        rows.append(Sentence(words[:cut], tags[:cut]))
    return [Sentence(("Mr", "Ana", "in", "Oslo"), ("O", "B-PER", "O", "B-LOC")), *rows[1:]]


def corpus(seed=0):
    return Corpus("small", sentences(40, seed), sentences(12, 100), sentences(12, 200), "given")


@pytest.fixture(autouse=True)
def threads():
    """The number of threads a context sets does not outlive the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def context(root, data=None, seed=0, force=False, bf16=False):
    return Context.create(data or corpus(), Cache(root, force), seed, threads=1, bf16=bf16)


@pytest.fixture(scope="module")
def teacher(root):
    return make_teacher(context(root), "tiny", RECIPE)


@pytest.fixture(scope="module")
def student(root, teacher):
    return make_student(context(root), teacher, RECIPE)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def files(folder):
    return {f.name for f in folder.iterdir()}


# --- context


def test_a_context_asks_the_processor_about_bf16_and_sets_the_threads(tmp_path):
    for threads in (2, 1):
        made = Context.create(corpus(), Cache(tmp_path), 5, threads)
        assert torch.get_num_threads() == made.threads == threads
        assert made.bf16 is fast_bf16()
    row = Distil(epochs=7, batch_size=3, learning_rate=1e-4, temperature=9.0, freeze_embeddings=True, patience=2)
    settings = Context.create(corpus(), Cache(tmp_path), 5, 1, bf16=True).settings(row)
    assert (settings.epochs, settings.batch_size, settings.learning_rate, settings.patience) == (7, 3, 1e-4, 2)
    assert settings.bf16 and settings.seed == 5 and settings.freeze_embeddings


# --- the teacher


def test_a_teacher_folder_is_complete_and_says_how_it_was_made(teacher):
    assert files(teacher) == MODEL
    assert (teacher / "recipe.toml").read_text() == RECIPE.text
    history = json.loads((teacher / "history.json").read_text())
    assert [e["epoch"] for e in history["epochs"]] == [1, 2] and history["threads"] == 1
    assert history["settings"]["learning_rate"] == 5e-3 and history["settings"]["bf16"] is False
    assert model_tags(load_token_classifier(teacher)) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"] == corpus().tags


def test_the_best_epochs_weights_are_kept(teacher):
    """The saved folder scores on validation exactly what its best epoch scored (fp32, one thread: to the bit)."""
    model, part = load_token_classifier(teacher), corpus().validation
    torch.set_num_threads(1)
    predicted = predict_tags([s.words for s in part], TorchEngine(model), load_tokenizer(teacher), model_tags(model))
    history = json.loads((teacher / "history.json").read_text())["epochs"]
    assert entity_f1([s.tags for s in part], predicted) == max(e["validation_f1"] for e in history)


def test_training_is_announced_once_and_then_taken_from_the_cache(teacher, root, capsys, tmp_path):
    assert make_teacher(context(root), "tiny", RECIPE) == teacher
    assert capsys.readouterr().err == ""
    other = make_teacher(context(tmp_path), "tiny", RECIPE)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "teacher: 40 sentences, 2 epochs in fp32, 1 threads"
    assert [line.split(":")[0] for line in lines[1:]] == ["  epoch 1", "  epoch 2"]
    assert other.name == teacher.name and weights(other) == weights(teacher), "same key, same weights"
    assert files(tmp_path) == {teacher.name}, "no checkpoints are left"


def test_the_key_follows_everything_the_weights_depend_on(teacher, root, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_stage, "fit", lambda *a: (tmp_path / a[5].name).mkdir())  # names, not models
    faster = Recipe("mine", Training(epochs=2, batch_size=8, learning_rate=6e-3), RECIPE.steps, RECIPE.text)
    renamed = Recipe("other", RECIPE.teacher, (), "# another text")
    assert make_teacher(context(root), "tiny", renamed).name == teacher.name, "steps and text do not make the teacher"
    variants = [
        make_teacher(context(root, seed=1), "tiny", RECIPE),
        make_teacher(context(root, corpus(1)), "tiny", RECIPE),
        make_teacher(context(root, bf16=True), "tiny", RECIPE),
        make_teacher(Context.create(corpus(), Cache(root), 0, 2, False), "tiny", RECIPE),
        make_teacher(context(root), "tiny", faster),
        make_teacher(context(root), str(teacher), RECIPE),
        make_teacher(context(root), "tiny", RECIPE, pretrained=False),
    ]
    monkeypatch.setattr(teacher_stage, "code_digest", lambda *where: "other code")
    variants.append(make_teacher(context(root), "tiny", RECIPE))
    assert len({teacher.name, *(v.name for v in variants)}) == len(variants) + 1


def test_a_students_key_names_every_file_of_the_techniques_that_its_stage_imports():
    imported = re.findall(
        r"^from course_lib\.((?:pruning|distillation|redundancy)\.\w+)", Path(stages.__file__).read_text(), re.M
    )
    assert {f"{module.replace('.', '/')}.py" for module in imported} <= set(stages.CODE)


def test_a_tracked_run_writes_losses_f1_and_weights_under_the_models_name(root, tmp_path):
    context = replace(Context.create(corpus(), Cache(tmp_path / "cache"), 0, 1, False), tracker=Tracker(tmp_path / "log"))
    made = make_teacher(context, "tiny", RECIPE)
    context.tracker.close()
    events = EventAccumulator(str(tmp_path / "log" / made.name))
    events.Reload()
    assert [e.value for e in events.Scalars("epoch/validation_f1")] == pytest.approx(
        [e["validation_f1"] for e in json.loads((made / "history.json").read_text())["epochs"]], rel=1e-6
    )
    assert {"step/loss", "epoch/loss", "memory/peak_mib", "sparsity/all"} <= set(events.Tags()["scalars"])


def test_without_pretraining_only_the_architecture_is_kept(root, teacher, capsys):
    short = Recipe("mine", Training(epochs=1, batch_size=40, learning_rate=1e-9), (), "")
    scratch = make_teacher(context(root), "tiny", short, pretrained=False)
    warm = make_teacher(context(root), "tiny", short)
    assert scratch.name.startswith("scratch-") and "random weights" in capsys.readouterr().err
    name, source = "embeddings.word_embeddings.weight", load_file(find_encoder("tiny") / "model.safetensors")
    tensors = load_file(scratch / "model.safetensors")[f"bert.{name}"], load_file(warm / "model.safetensors")[f"bert.{name}"]
    # One step at this rate moves a weight by about 1e-9.
    assert torch.allclose(tensors[1], source[name], atol=1e-7)
    assert tensors[0].shape == source[name].shape and (tensors[0] - source[name]).abs().mean() > 1e-3


def test_force_trains_again_from_the_start_to_the_same_weights(teacher, root, capsys):
    before, work = weights(teacher), teacher.with_name(teacher.name + ".training")
    (work / "step-9999999-0009").mkdir(parents=True)  # of an earlier run: must not be resumed
    forced = context(root, force=True)
    assert make_teacher(forced, "tiny", RECIPE) == teacher
    assert "epoch 1:" in capsys.readouterr().err
    assert weights(teacher) == before and not work.exists()
    make_teacher(forced, "tiny", RECIPE)
    assert capsys.readouterr().err == "", "once per run"


# --- the student


def test_a_student_is_the_cut_teacher(teacher, student):
    """Distilled at a rate of 1e-9 the student is its teacher, cut: the layer and the neurons the recipe keeps, chosen
    here by hand (the norm of each neuron's row in times its column out). Five steps move a weight by at most 1e-8."""
    assert files(student) == MODEL and (student / "recipe.toml").read_text() == RECIPE.text
    big, small = load_file(teacher / "model.safetensors"), load_file(student / "model.safetensors")
    layer = "bert.encoder.layer.{}.{}"
    rows = big[layer.format(1, "intermediate.dense.weight")]
    columns = big[layer.format(1, "output.dense.weight")]
    score = [float(np.linalg.norm(rows[j])) * float(np.linalg.norm(columns[:, j])) for j in range(64)]
    kept = sorted(sorted(range(64), key=lambda j: -score[j])[:8])
    expected = {k: v for k, v in big.items() if ".layer." not in k}
    for key in (k.removeprefix(layer.format(1, "")) for k in big if k.startswith(layer.format(1, ""))):
        value = big[layer.format(1, key)]
        if key.startswith("intermediate.dense"):
            value = value[kept]
        if key == "output.dense.weight":
            value = value[:, kept]
        expected[layer.format(0, key)] = value
    assert small.keys() == expected.keys()
    for key, value in expected.items():
        assert small[key].shape == value.shape, key
        assert torch.allclose(small[key], value, rtol=0, atol=1e-7), key


def test_cuts_and_training_are_announced(root, teacher, student, capsys):
    make_student(context(root, force=True), teacher, RECIPE)
    err = capsys.readouterr().err
    assert "encoder.layer.0: dropped" in err and "encoder.layer.0: 64 → 8 feed-forward neurons" in err
    assert "student: 40 sentences, 1 epochs in fp32" in err
    make_student(context(root), teacher, RECIPE)
    assert capsys.readouterr().err == ""


def test_a_student_learns_from_its_teachers_logits(root, teacher):
    """With soft labels alone a student that was not cut differs from its teacher by dropout only: it has next to nothing
    to learn, and stays what it is. AdamW moves a weight by the learning rate per step at most: 5e-6 in five steps."""
    soft = Distil(epochs=1, batch_size=8, learning_rate=1e-6, hard_weight=0.0)
    same = make_student(context(root), teacher, Recipe("soft", RECIPE.teacher, (soft, Quantize()), ""))
    loss = json.loads((same / "history.json").read_text())["epochs"][0]["loss"]
    hard = Distil(epochs=1, batch_size=8, learning_rate=1e-6, hard_weight=1.0)
    other = make_student(context(root), teacher, Recipe("hard", RECIPE.teacher, (hard, Quantize()), ""))
    assert loss < 0.05, "dropout alone lets them differ"
    assert json.loads((other / "history.json").read_text())["epochs"][0]["loss"] > 2 * loss
    big, small = load_file(teacher / "model.safetensors"), load_file(same / "model.safetensors")
    assert all(torch.allclose(small[k], big[k], rtol=0, atol=1e-5) for k in big)


def test_prepared_aligns_labels_with_windows():
    tokenizer, data = load_tokenizer(find_encoder("tiny")), corpus()
    prepared = Prepared.of(data, tokenizer, data.tags, 16)
    assert prepared.windows == make_windows([s.words for s in data.train], tokenizer, 16)
    for window, labels in zip(prepared.windows, prepared.labels, strict=True):
        spoken = {position: data.tags[labels[position]] for position, _ in window.heads}
        assert spoken == {p: data.train[window.sentence].tags[w] for p, w in window.heads}
        assert sum(label == -100 for label in labels) == len(labels) - len(window.heads)


@pytest.mark.parametrize("score", ["taylor", "weight"])
def test_neurons_that_do_nothing_are_the_first_to_go(score, teacher):
    """All columns out of the neurons are 0 but three: the others cannot change the output, so both scores are 0 there."""
    model, useful = load_token_classifier(teacher), [3, 17, 40]
    for layer in encoder_layers(model):
        mask = torch.zeros(64)
        mask[useful] = 1
        layer.output.dense.weight.data *= mask
    prepared = Prepared.of(corpus(), load_tokenizer(teacher), model_tags(model), 512)
    kept = stages.choose_neurons(model, RemoveFfnNeurons(3, score, sentences=20), prepared)
    assert [k.tolist() for k in kept] == [useful, useful]


def test_an_unknown_score_is_refused(teacher):
    model = load_token_classifier(teacher)
    prepared = Prepared.of(corpus(), load_tokenizer(teacher), model_tags(model), 512)
    with pytest.raises(ValueError, match="score = 'luck': expected 'taylor' or 'weight'"):
        stages.choose_neurons(model, RemoveFfnNeurons(3, "luck"), prepared)


@pytest.mark.parametrize("count, sizes", [(1, [1]), (16, [16]), (20, [16, 4]), (10_000, [16, 16, 8])])
def test_scores_are_taken_on_as_many_sentences_as_the_recipe_says(count, sizes, teacher):
    model, seen = load_token_classifier(teacher), []
    model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    prepared = Prepared.of(corpus(), load_tokenizer(teacher), model_tags(model), 512)
    assert all(loss.isfinite() for loss in stages._losses(model, prepared, count))
    assert seen == sizes


def test_a_recipe_for_a_bigger_encoder_is_refused_before_anything_is_trained(tmp_path):
    for step, message in (
        (DropLayers([0, 2]), "layers 0 to 1"),
        (RemoveFfnNeurons(65), "only 64 neurons"),
    ):
        with pytest.raises(CourseError, match=message):
            check_recipe("tiny", Recipe("big", Training(), (step, Distil(), Quantize()), ""))
    check_recipe("tiny", RECIPE)


# --- to ship


def test_a_folder_to_ship_holds_model_config_tokenizer_and_this_recipe(root, student, capsys):
    earlier = [make_onnx(context(root), student, RECIPE, int8) for int8 in (False, True)]
    capsys.readouterr()
    later = Recipe("mine", RECIPE.teacher, RECIPE.steps, "# the same steps, another comment\n")
    folders = [make_onnx(context(root), student, later, int8) for int8 in (False, True)]
    err = capsys.readouterr().err
    assert f"exporting {student.name}" in err and f"quantizing {student.name}" in err
    for folder in folders:
        assert files(folder) == {"model.onnx", "config.json", "tokenizer.json", "recipe.toml"}
        assert (folder / "recipe.toml").read_text() == later.text
        assert (folder / "tokenizer.json").read_bytes() == (student / "tokenizer.json").read_bytes()
        config = json.loads((folder / "config.json").read_text())
        assert config.pop("course_format") == FORMAT and config == json.loads((student / "config.json").read_text())
    assert [f.name.split("-")[0] for f in folders] == ["onnx", "int8"]
    assert [(folder / "recipe.toml").read_text() for folder in earlier] == [RECIPE.text] * 2
    assert [make_onnx(context(root), student, later, int8) for int8 in (False, True)] == folders
    assert capsys.readouterr().err == ""


def test_int8_comes_from_the_fp32_file_and_follows_its_settings(root, student, capsys):
    narrow = Recipe("mine", RECIPE.teacher, (*RECIPE.steps[:-1], Quantize(reduce_range=True)), RECIPE.text)
    wide = make_onnx(context(root), student, RECIPE, True)
    capsys.readouterr()
    other = make_onnx(context(root), student, narrow, True)
    assert other != wide
    assert "exporting" not in capsys.readouterr().err, "the fp32 file was there already"
    assert make_onnx(context(root), student, narrow, False) == make_onnx(context(root), student, RECIPE, False)


def test_a_trimmed_teacher_reads_the_same_pieces_under_new_numbers_and_says_the_same(root, teacher):
    """What the teacher says of a piece must be said of the same piece."""
    here, tokenizer = context(root), load_tokenizer(teacher)
    models = [load_token_classifier(teacher).eval() for _ in range(3)]
    smaller = trim(here, models[1:], tokenizer, TrimVocabulary("abc", positions=64))
    before = Prepared.of(here.corpus, tokenizer, model_tags(models[0]), 64)
    after = Prepared.of(here.corpus, smaller, model_tags(models[0]), max_pieces(models[1]))
    assert after.labels == before.labels and models[1].num_parameters() < models[0].num_parameters()
    for old, new in zip(before.windows, after.windows, strict=True):
        assert old.heads == new.heads
        assert [tokenizer.id_to_token(i) for i in old.ids] == [smaller.id_to_token(i) for i in new.ids]
    for model in models[1:]:
        said = [m(torch.tensor([w.ids])).logits for m, w in ((models[0], before.windows[0]), (model, after.windows[0]))]
        assert torch.equal(*said)


def test_only_as_many_pieces_as_asked_for_are_kept(root, teacher):
    models, tokenizer = [load_token_classifier(teacher)], load_tokenizer(teacher)
    all_of_them = trim(context(root), models, tokenizer, TrimVocabulary("abc"))
    fewer = trim(context(root), models, all_of_them, TrimVocabulary("abc", most=5))
    assert fewer.get_vocab_size() < all_of_them.get_vocab_size()


# --- levers of the distillation and of the cuts


def distilled(**fields) -> Recipe:
    steps = (
        DropLayers([1]),
        RemoveFfnNeurons(8, "weight"),
        Distil(epochs=1, batch_size=8, learning_rate=1e-3, **fields),
        Quantize(),
    )
    return Recipe("mine", RECIPE.teacher, steps, "")


def test_text_that_only_the_teacher_labels_follows_the_training_windows(root, teacher, tmp_path):
    model, tokenizer, here = load_token_classifier(teacher), load_tokenizer(teacher), context(root)
    file = tmp_path / "text.txt"
    file.write_text("The club said so. It left.\n\nA third one.\n", "utf-8")
    prepared = stages.with_soft_labels(here, Distil(copies=2, generated=7, text=str(file)), tokenizer, model)
    own = Prepared.of(here.corpus, tokenizer, model_tags(model), max_pieces(model))
    count = len(own.windows)
    assert prepared.windows[:count] == own.windows and prepared.labels[:count] == own.labels
    assert len(prepared.windows) == 3 * count + 7 + 3, "two copies of each, seven generated, three sentences of the file"
    for window, labels in zip(prepared.windows[count:], prepared.labels[count:], strict=True):
        assert [i for i, label in enumerate(labels) if label == SOFT_ONLY] == [position for position, _ in window.heads]
        assert set(labels) <= {SOFT_ONLY, IGNORED}


def test_a_student_learns_from_copies_relations_and_several_teachers(root, teacher):
    other = make_teacher(context(root, seed=1), "tiny", RECIPE)
    plain = make_student(context(root), teacher, distilled())
    for fields in ({"copies": 1}, {"relation_weight": 1.0}, {"generated": 5}):
        assert weights(make_student(context(root), teacher, distilled(**fields))) != weights(plain), fields
    assert weights(make_student(context(root), [teacher, other], distilled())) != weights(plain), (
        "an ensemble says other things"
    )


def test_an_ensemble_is_the_teacher_and_others_of_the_next_seeds(root, teacher):
    recipe = Recipe("mine", RECIPE.teacher, (Distil(ensemble=2), Quantize()), "")
    first, second = stages.make_ensemble(context(root), "tiny", recipe)
    assert first == teacher and second == make_teacher(context(root, seed=1), "tiny", RECIPE)


def test_a_soup_is_an_average_of_students_and_no_worse_than_the_best_on_validation(root, teacher):
    recipe, here = distilled(soup=2), context(root)
    soup = make_student(here, teacher, recipe)
    log = json.loads((soup / "history.json").read_text())["log"]
    assert next(row["kept"] for row in log) and soup.name.startswith("soup")
    model = load_token_classifier(soup)
    prepared = Prepared.of(here.corpus, load_tokenizer(soup), model_tags(model), max_pieces(model))
    best = max(row["validation_f1"] for row in log if row["kept"])
    assert stages.validation_f1(here, model, prepared) == best >= log[0]["validation_f1"]
    assert make_student(here, teacher, recipe) == soup, "taken from the cache"


@pytest.mark.parametrize(
    ("fields", "asked"), [({}, 1), ({"relation_weight": 1.0}, 1), ({"copies": 1}, 3), ({"generated": 5}, 3)], ids=str
)
def test_the_students_of_a_soup_ask_their_teacher_once_where_they_read_the_same(
    root, teacher, tmp_path, monkeypatch, fields, asked
):
    """Copies and generated text each seed draws anew. Either way each student is what it is alone, to the bit."""
    recipe, calls, real = distilled(soup=3, **fields), [], stages.teacher_targets
    monkeypatch.setattr(stages, "teacher_targets", lambda *a: calls.append(a[1]) or real(*a))
    students = stages._students(context(tmp_path / "soup"), [teacher], recipe)
    assert len(calls) == asked and len({s.name for s in students}) == 3
    for seed, student in enumerate(students):
        own = context(tmp_path / "alone", seed=seed)
        alone = stages._student(own, [teacher], recipe, stages.Answers())
        assert alone.name == student.name and weights(alone) == weights(student)
    assert len(calls) == asked + 3, "each of those asked for itself"


def test_only_the_latest_answer_is_kept(root, teacher):
    """Windows of other text are asked about anew, and so are the first ones when they come back."""
    here, tokenizer, model = context(root), load_tokenizer(teacher), load_token_classifier(teacher)
    prepared = Prepared.of(here.corpus, tokenizer, model_tags(model), 512)
    fewer, answers = replace(prepared, windows=prepared.windows[:5], labels=prepared.labels[:5]), stages.Answers()
    first = answers.of(here, [model], prepared, values=False)
    assert answers.of(here, [model], replace(prepared, windows=[*prepared.windows]), values=False) is first
    other = answers.of(here, [model], fewer, values=False)
    assert len(first.logits) == 40 and len(other.logits) == 5 and other.values == []
    again = answers.of(here, [model], prepared, values=False)
    assert again is not first and all(np.array_equal(a, b) for a, b in zip(again.logits, first.logits, strict=True))


@pytest.mark.parametrize(
    ("tags", "swapped", "message"),
    [
        (["O", "B-LOC", "I-LOC", "I-PER", "B-PER"], False, "tags are .*expected the same, in the same order"),
        (["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], True, "other has another tokenizer than .*teacher-"),
    ],
    ids=["tags", "tokenizer"],
)
def test_teachers_that_cannot_be_averaged_are_refused(root, teacher, tmp_path, tags, swapped, message):
    other, data = tmp_path / "other", json.loads((teacher / "tokenizer.json").read_text("utf-8"))
    if swapped:
        a, b = (p for p, i in data["model"]["vocab"].items() if i in (20, 21))
        data["model"]["vocab"] |= {a: 21, b: 20}
    other.mkdir()
    save_model(load_token_classifier(find_encoder("tiny"), tags), Tokenizer.from_str(json.dumps(data)), other)
    with pytest.raises(CourseError, match=message):
        make_student(context(root), [teacher, other], distilled())


def test_the_layers_that_stay_are_those_with_the_best_validation_f1(root, teacher, capsys):
    here, model = context(root), load_token_classifier(teacher)
    prepared = Prepared.of(here.corpus, load_tokenizer(teacher), model_tags(model), max_pieces(model))
    scores = {}
    for keep in ((0,), (1,)):
        smaller = load_token_classifier(teacher)
        stages.drop_layers(smaller, keep)
        scores[keep] = stages.validation_f1(here, smaller, prepared)
    best = stages.best_layers(here, model, prepared, 1)
    assert scores[tuple(best)] == max(scores.values())
    assert len(encoder_layers(model)) == 2, "the model itself is left alone"
    assert f"layers {best}" in capsys.readouterr().err


def test_heads_are_removed_by_their_scores(root, teacher):
    steps = RemoveHeads(2), *distilled().steps
    student = make_student(context(root), teacher, Recipe("mine", RECIPE.teacher, steps, ""))
    attention = encoder_layers(load_token_classifier(student))[0].attention.self
    assert attention.num_attention_heads == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Distil(text="no/such/file.txt"), "text = 'no/such/file.txt' is no file"),
        (DropLayers(), "expected either keep, a list of layers, or count"),
        (DropLayers([0], count=1), "expected either keep, a list of layers, or count"),
        (DropLayers(count=3), "drop_layers keeps 3, but there are only layers 0 to 1"),
        (RemoveHeads(5), "remove_heads keeps 5, but a layer has only 4 heads"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(step, message):
    with pytest.raises(CourseError, match=re.escape(message)):
        check_recipe("tiny", Recipe("mine", Training(), (step, Distil(), Quantize()), ""))


def test_text_to_label_must_be_utf_8(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(CourseError, match=r"not UTF-8 .* at byte 3"):
        stages.read_text(file)
