"""The trained models that lessons 15 to 23 work on: what `course compress` left, or in fast mode small stand-ins.

Fast mode takes the stand-ins even where there are artifacts, so that tests are the same everywhere.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from course_lib.artifacts import Cache, file_sha256, new_folder
from course_lib.data.corpus import Corpus
from course_lib.errors import CourseError
from course_lib.exercises.mode import fast
from course_lib.recipes.recipe import Distil, Quantize, Recipe, RemoveFfnNeurons, Training, load_recipe

COMMAND = "course compress"
MINUTES = 7  # of COMMAND from nothing, on two cores
STAND_IN_SIZES = {"train": 500, "validation": 300, "test": 300}
STAND_IN_LAYERS = [0, 1]
STAND_IN = Recipe(
    "stand_in",
    Training(epochs=3, batch_size=16, learning_rate=1e-3, freeze_embeddings=True),
    (
        RemoveFfnNeurons(512, "weight"),
        Distil(epochs=2, batch_size=16, learning_rate=1e-3, hard_weight=0.1, hidden_weight=2.0, freeze_embeddings=True),
        Quantize(),
    ),
    'name = "stand_in"  # written in course_lib/exercises/trained.py\n',
)


class Finished(Cache):
    """A cache to take from only: what is not there is asked of the learner, and not made."""

    def ready(self, folder: Path) -> bool:
        """True, or a :class:`CourseError` that names the command."""
        if not folder.is_dir():
            raise CourseError(
                f"{folder} is missing: this lesson needs the trained models. In the course's folder run `{COMMAND}` once (about "
                f"{MINUTES} minutes on two cores; after an update it makes anew what the update concerns), then run this cell again."
            )
        return True


def artifacts_folder() -> Path:
    """``artifacts/`` of the nearest folder above that has one or is the course's; else of the folder one is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "artifacts" / "cache").is_dir() or (folder / "course_lib" / "exercises").is_dir():
            return folder / "artifacts"
    return here / "artifacts"


@functools.cache
def _corpus(small: bool) -> Corpus:
    from course_lib.data.generated import generate

    return generate(seed=0, sizes=STAND_IN_SIZES if small else None)


def corpus() -> Corpus:
    """The generated corpus that the models were trained on; 500, 300 and 300 sentences of it in fast mode."""
    return _corpus(fast())


def teacher() -> Path:
    """Folder of the fine-tuned encoder: ``model.safetensors``, ``config.json``, ``tokenizer.json``.

    Raises:
        CourseError: it was not made yet; the message names the command and how long it takes.
    """
    return _made("teacher")


def student() -> Path:
    """Folder of the teacher cut down and distilled, as :func:`teacher`."""
    return _made("student")


def shipped() -> Path:
    """Folder of the student in int8: ``model.onnx``, ``config.json``, ``tokenizer.json``; otherwise as :func:`teacher`."""
    return _made("shipped")


def _made(stage: str) -> Path:
    cache = artifacts_folder() / "cache"
    if fast():
        with _one_at_a_time(cache):
            return _stage(stage, Cache(cache), _small_encoder(Cache(cache)), STAND_IN, threads=1, bf16=False)
    from course_lib.machine import fast_bf16, processors

    return _stage(stage, Finished(cache), "minilm", load_recipe("quick"), processors(), fast_bf16())


def _stage(stage: str, cache: Cache, encoder: str, recipe, threads: int, bf16: bool) -> Path:
    """The folder of a stage, by the functions that make it: they take it from the cache where it is there."""
    from course_lib.recipes.teacher import Context, make_teacher

    context = Context(corpus(), cache, seed=0, threads=threads, bf16=bf16)
    folder = make_teacher(context, encoder, recipe)
    if stage == "teacher":
        return folder
    from course_lib.recipes.stages import make_onnx, make_student

    folder = make_student(context, folder, recipe)
    return make_onnx(context, folder, recipe, int8=True) if stage == "shipped" else folder


def _small_encoder(cache: Cache) -> str:
    """The course's encoder cut to its first two layers."""
    from course_lib.models.zoo import WEIGHTS, load_encoder, load_tokenizer, minilm_folder, save_model
    from course_lib.pruning.structure import drop_layers

    source = minilm_folder()
    target = cache.path("encoder", file_sha256(source / WEIGHTS), STAND_IN_LAYERS)
    if not cache.ready(target):
        model = load_encoder("minilm")
        drop_layers(model, STAND_IN_LAYERS)
        with new_folder(target) as folder:
            save_model(model, load_tokenizer(source), folder)
    return str(target)


@contextlib.contextmanager
def _one_at_a_time(cache: Path) -> Iterator[None]:
    """Make the stand-ins in one process while others wait for them; on one thread, the same bits everywhere, and without a word.

    In a notebook that is graded, a word on standard error costs the points.
    """
    import torch
    from filelock import FileLock

    from course_lib import console

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "stand_in.lock"):
        # threads wait here too: each takes back what it found, not what another had set meanwhile
        threads, quiet = torch.get_num_threads(), console.stderr.quiet
        torch.set_num_threads(1)
        console.stderr.quiet = True
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            console.stderr.quiet = quiet
