"""The sweep of lesson 16: what pruning leaves of the teacher's F1, by method and sparsity, with and without a short training."""

import functools
from collections.abc import Callable

from torch import nn

from course_lib.artifacts import file_sha256
from course_lib.exercises import pick, trained
from course_lib.measure.pruning_techniques import ENCODER, keep_zeros, l1_training, layers, movement, units, weights
from course_lib.measure.size import effective_parameters, stored_parameters
from course_lib.measure.sweeps import Sweep
from course_lib.measure.technique_bench import Bench, Sizes
from course_lib.measure.technique_bytes import Made, payload_bytes
from course_lib.measure.technique_row import Make, recovered
from course_lib.models.zoo import WEIGHTS
from course_lib.ner.evaluate import f1_difference, f1_interval
from course_lib.plan import match
from course_lib.pruning.masks import Masks, global_masks
from course_lib.pruning.schedules import cubic
from course_lib.pruning.scores import magnitude_scores

SENTENCES = 400  # of validation
LONG = 3  # passes over the recovery sentences of the gradual run, where the short training has one
SCORES, LEVELS = ("magnitude", "taylor", "gradient"), (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
POINTS = (
    {"method": "dense", "sparsity": 0.0, "recovery": 0},
    *({"method": m, "sparsity": s, "recovery": 0} for m in SCORES for s in LEVELS),
    *({"method": m, "sparsity": s, "recovery": 0} for m in ("heads", "neurons") for s in (0.25, 0.5, 0.75)),
    *({"method": "layers", "sparsity": round(n / 6, 2), "recovery": 0} for n in (1, 2, 3)),
    {"method": "dense", "sparsity": 0.0, "recovery": 1},
    *({"method": m, "sparsity": s, "recovery": 1} for m in ("magnitude", "taylor", "l1") for s in (0.5, 0.7, 0.8)),
    *({"method": "movement", "sparsity": s, "recovery": 1} for s in (0.5, 0.8)),
    *({"method": m, "sparsity": s, "recovery": 1} for m in ("heads", "neurons") for s in (0.5, 0.75)),
    *({"method": "layers", "sparsity": round(n / 6, 2), "recovery": 1} for n in (1, 3)),
    {"method": "gradual", "sparsity": 0.8, "recovery": LONG},
)


@functools.cache
def bench() -> Bench:
    """The teacher with its corpus and settings; a small one in fast mode."""
    import torch

    from course_lib.artifacts import Cache
    from course_lib.machine import fast_bf16
    from course_lib.recipes.recipe import load_recipe
    from course_lib.recipes.teacher import Context

    recipe = pick(load_recipe("quick"), trained.STAND_IN)
    cache = Cache(trained.artifacts_folder() / "cache")
    context = Context(trained.corpus(), cache, 0, torch.get_num_threads(), pick(fast_bf16(), False))
    sizes = Sizes(calibration=pick(128, 32), recovery=pick(2000, 160), search=pick(SENTENCES, 100))
    return Bench(context, trained.teacher(), context.settings(recipe.teacher), sizes)


def gradual(sparsity: float, passes: int) -> Make:
    """Magnitude, one threshold, cubic to the sparsity in two thirds of so many passes: the rank of today's weights at each step."""

    def make(model: nn.Module, bench: Bench) -> Made:
        found = {f"{name}.weight": module.weight for name, (module, _) in match(model, {ENCODER: None}).found.items()}
        masks, begun = {}, 0

        def prune(done: int, steps: int) -> None:
            nonlocal masks
            share = cubic(begun + done, steps * passes * 2 // 3, sparsity)
            masks = global_masks({name: magnitude_scores(w) for name, w in found.items()}, share)
            Masks(masks).apply(model)

        for number in range(passes):
            begun = number * -(-bench.sizes.recovery // bench.settings.batch_size)
            bench.train(model, after_step=prune)
        return Made(model, masks)

    return make


def make_of(method: str, sparsity: float, recovery: int) -> Make:
    """How the model of a point is made from the teacher."""
    trained_anyway: dict[str, Callable[[], Make]] = {
        "movement": lambda: movement(sparsity),
        "l1": lambda: l1_training(sparsity),
        "gradual": lambda: gradual(sparsity, recovery),
    }
    if method in trained_anyway:
        return trained_anyway[method]()
    if method == "dense":
        make: Make = lambda model, bench: Made(model)  # noqa: E731
    elif method in SCORES:
        make = weights(method, sparsity, scope="global")
    else:
        make = layers(sparsity) if method == "layers" else units(method, sparsity)
    return recovered(make, keep_zeros) if recovery else make


@functools.cache
def dense_tags() -> list[list[str]]:
    """What the teacher itself predicts on the validation sentences that are scored."""
    return bench().predict(bench().fresh(), scored())


def scored() -> list:
    """The validation sentences that are scored."""
    return bench().context.corpus.validation[: bench().sizes.search]


def figures_of(made: Made) -> dict:
    """F1 and its paired difference from the teacher with intervals, parameters stored and not zero, megabytes of all tensors."""
    gold, tags = [s.tags for s in scored()], bench().predict(made.model.eval(), scored())
    return {
        "f1": f1_interval(gold, tags),
        "difference": f1_difference(gold, tags, dense_tags()),
        "stored": stored_parameters(made.model),
        "nonzero": effective_parameters(made.model),
        "megabytes": round(payload_bytes(made) / 1e6, 3),
    }


def run(point: dict) -> dict:
    """The figures of a point."""
    import torch

    torch.manual_seed(0)
    return figures_of(make_of(**point)(bench().fresh(), bench()))


def teacher_weights() -> str:
    """Hash of the teacher's weights."""
    return file_sha256(bench().teacher / WEIGHTS)[:16]


SWEEP = Sweep(
    name="pruning",
    lesson="16_prune_bert",
    points=POINTS,
    run=run,
    code=("measure/prune_sweep.py", "measure/pruning_techniques.py", "measure/technique_bench.py")
    + tuple(f"pruning/{name}.py" for name in "masks apply scores movement proximal unit_masks unit_scores".split()),
    model=teacher_weights,
    interval=f"95 % bootstrap over {SENTENCES} validation sentences, one training seed",
)
