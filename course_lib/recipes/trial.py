"""A recipe tried: made, scored on validation, and timed beside the teacher."""

from pathlib import Path

from course_lib.artifacts import folder_bytes, read_json
from course_lib.deploy.benchmark import Contender, race
from course_lib.deploy.engines import max_pieces, open_model, open_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import CONFIG, load_tokenizer
from course_lib.ner.evaluate import entity_f1
from course_lib.recipes.compress import timed_rows
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.stages import make_ensemble, make_onnx, make_student
from course_lib.recipes.teacher import Context
from course_lib.tasks import find_task

ROUNDS = 3


class Judge:
    """Tries recipes that share a teacher. The test is never looked at.

    Args:
        context: corpus, cache, seed and threads.
        encoder: name of the encoder.
        recipe: one of the recipes; they all train the same teacher.
    """

    def __init__(self, context: Context, encoder: str, recipe: Recipe) -> None:
        self.context, self.encoder = context, encoder
        self.teacher = make_ensemble(context, encoder, recipe)[0]
        self.reference = make_onnx(context, self.teacher, recipe, int8=True)
        self.f1 = self._f1(self.teacher, *open_model(self.teacher, context.threads))

    def __call__(self, recipe: Recipe) -> dict:
        """Figures of a recipe.

        Returns:
            ``f1`` on validation, ``loss`` (points below the fp32 teacher), ``bytes`` of all files one ships, ``ms`` (median of one
            sentence, tokenized beforehand), and ``reference_ms``, that of the teacher in int8, which took turns with it.
        Raises:
            CourseError: one of the two could not be timed.
        """
        context = self.context
        student = make_student(context, make_ensemble(context, self.encoder, recipe), recipe)
        shipped = make_onnx(context, student, recipe, int8=True)
        f1 = self._f1(shipped, *open_onnx(shipped, context.threads))
        racers = [
            Contender(n, "onnxruntime", f / "model.onnx", self._rows(f))
            for n, f in (("teacher", self.reference), ("student", shipped))
        ]
        times = race(racers, racers[0].rows, context.threads, ROUNDS)
        for racer, time in zip(racers, times, strict=True):
            if time["error"]:
                raise CourseError(f"{racer.name} in int8 could not be timed: {time['error']}")
        reference, own = (time["ms_per_sentence"]["1"]["median"] for time in times)
        return {"f1": round(f1, 5), "loss": round(100 * (self.f1 - f1), 3), "bytes": folder_bytes(shipped), "ms": own, "reference_ms": reference}  # fmt: skip

    def _rows(self, folder: Path) -> list[list[int]]:
        limit = max_pieces(read_json(folder / CONFIG))
        return timed_rows(self.context.corpus.validation, load_tokenizer(folder), limit, self.context.seed)

    def _f1(self, folder: Path, engine, tags: list[str]) -> float:
        sentences, limit = self.context.corpus.validation, max_pieces(read_json(folder / CONFIG))
        predict = find_task(self.context.corpus.task).predict
        predicted = predict([s.words for s in sentences], engine, load_tokenizer(folder), tags, max_pieces=limit)
        return entity_f1([s.tags for s in sentences], predicted)
