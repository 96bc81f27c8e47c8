"""What each method against redundancy costs and gains on one fine-tuned encoder: F1, bytes, seconds, multiply-adds, as rows of figures.

Rows are those of the technique table (:mod:`course_lib.measure.techniques`) with multiply-adds and peak memory besides. Each row starts
from the teacher's weights and is kept as soon as it is measured, so that a run that is stopped loses at most the row it was at.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from course_lib.artifacts import code_digest, new_folder, read_json, write_json
from course_lib.deploy.engines import TorchEngine
from course_lib.deploy.worker import padded
from course_lib.errors import CourseError
from course_lib.machine import machine
from course_lib.measure.pruning_techniques import ENCODER
from course_lib.measure.size import macs_per_token
from course_lib.measure.technique_bench import BATCH, Bench
from course_lib.measure.technique_bytes import Made
from course_lib.measure.technique_row import Make, Technique, recovered
from course_lib.measure.techniques import DENSE, PARTS, described, measure
from course_lib.models.surgery import encoder_layers
from course_lib.plan import match
from course_lib.precision.live_bytes import LiveBytes
from course_lib.recipes.compress import timed_rows
from course_lib.redundancy.dead_neurons import neuron_activity, remove_dead
from course_lib.redundancy.layer_merging import closest_neighbours, merge_layers, recover_merged
from course_lib.redundancy.low_rank_layers import LowRank, apply
from course_lib.redundancy.paths import merge_paths
from course_lib.redundancy.rank_budget import byte_cost, joint_plan, spectra, time_cost
from course_lib.redundancy.rank_latency import measure_latency
from course_lib.redundancy.sharing import share_layers
from course_lib.redundancy.similarity import layer_similarity

FAMILY = "redundancy"
SHARES = (0.9, 0.75, 0.5)  # of the bytes of the encoder's matrices that low rank may take
RECOVERED = 0.5  # the share at which a short training is tried
QUIET = 0.17  # the depth of GELU's dip: a neuron within it was never switched on
CODE = ("measure/redundancy_runs.py", "calibration.py", "layerwise.py", "obs.py") + tuple(  # what is trained on top is no part of it
    f"redundancy/{name}.py"
    for name in (
        "low_rank", "activation_low_rank", "low_rank_layers", "rank_latency", "rank_budget", "sharing", "similarity", "layer_merging",
        "dead_neurons", "paths", "joined_modules",
    )
)  # fmt: skip


def even_ranks(share: float, aware: bool) -> Make:
    """Every matrix of the encoder to the same share of its bytes, by the plain SVD or with regard to its inputs."""

    def make(model: nn.Module, bench: Bench) -> Made:
        found = match(model, {ENCODER: None}).found
        plan = {name: LowRank(bytes=share * linear.weight.nbytes) for name, (linear, _) in found.items()}
        return _made(model, apply(model, plan, bench.batches() if aware else None))

    return make


def joint_ranks(share: float, of: str = "bytes", tokens: int = 32 * 16) -> Make:
    """Ranks for all matrices together within a share of their bytes, or of the milliseconds of their products on this machine."""

    def make(model: nn.Module, bench: Bench) -> Made:
        layers, cost = spectra(model, ENCODER, bench.batches()), byte_cost()
        if of == "ms":
            cost = time_cost(measure_latency([layer.shape for layer in layers.values()], tokens))
        whole = sum(cost(layer.shape, None) for layer in layers.values())
        plan = joint_plan(layers, share * whole, cost, of)
        made = _made(model, apply(model, plan, bench.batches()))
        made.note += f"; {len(plan)} of {len(layers)} matrices in factors"
        return made

    return make


def shared(size: int, weights: str = "mean") -> Make:
    """Neighbouring layers share their parameters, so many at a time."""

    def make(model: nn.Module, bench: Bench) -> Made:
        count = len(encoder_layers(model))
        groups = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
        return _made(model, share_layers(model, [g for g in groups if len(g) > 1], weights=weights))

    return make


def merged(pairs: int, weights: str, steps: int = 0) -> Make:
    """The closest pairs of neighbouring layers replaced by one each, which learns for so many steps what the pair did."""

    def make(model: nn.Module, bench: Bench) -> Made:
        groups = closest_neighbours(layer_similarity(model, bench.batches()), pairs)
        made = _made(model, merge_layers(model, groups, weights))
        made.note += f"; layers {groups}"
        if steps:
            errors = recover_merged(model, bench.dense, groups, bench.batches(), steps)
            made.note += "; error " + ", ".join(f"{before:.4f} → {after:.4f}" for before, after in errors)
        return made

    return make


def quiet_neurons(threshold: float) -> Make:
    """Neurons that stay within a threshold of their middle on the calibration sentences go, their middle into the bias."""
    return lambda model, bench: _made(model, remove_dead(model, neuron_activity(model, bench.batches()), threshold))


def rows() -> list[Technique]:
    """All rows; the teacher as it is comes first, then each after the plainer one it is compared with."""
    found = [Technique(DENSE, "the teacher as it is", "none", "–", lambda model, bench: Made(model))]

    def add(name: str, method: str, strength: str, make: Make, plain: str | None = None, train: bool = False) -> None:
        found.append(Technique(name, method, FAMILY, strength, make, plain))
        if train:
            plain = plain and f"{plain}+recovery"
            found.append(Technique(f"{name}+recovery", method, FAMILY, strength, recovered(make), plain, trained=True))

    for share in SHARES:
        asked, slug, train = f"{share:.0%} of the bytes", round(100 * share), share == RECOVERED
        add(f"svd-{slug}", "SVD, the same share of each matrix", asked, even_ranks(share, aware=False), train=train)
        add(f"aware-svd-{slug}", "activation-aware SVD, the same share", asked, even_ranks(share, True), f"svd-{slug}", train)
        add(f"joint-svd-{slug}", "activation-aware SVD, ranks jointly", asked, joint_ranks(share), f"aware-svd-{slug}", train)
    add("joint-svd-ms-75", "activation-aware SVD, ranks jointly", "75% of the ms", joint_ranks(0.75, "ms"), "joint-svd-75")
    for size in (2, 3):
        add(f"shared-{size}", "layers share parameters, mean", f"{size} by {size}", shared(size), train=True)
    add("shared-first-2", "layers share parameters, the first's", "2 by 2", shared(2, "first"), "shared-2", True)
    add("merged-mean-1", "two layers → one, the mean", "1 pair", merged(1, "mean"), train=True)
    for weights in ("first", "last"):
        add(
            f"merged-{weights}-1",
            f"two layers → one, the {weights}",
            "1 pair",
            merged(1, weights),
            "merged-mean-1",
            weights == "first",
        )
    add(
        "merged-taught-1",
        "two layers → one, the first, taught",
        "1 pair",
        merged(1, "first", steps=100),
        "merged-first-1",
        True,
    )
    add("merged-taught-2", "two layers → one, the first, taught", "2 pairs", merged(2, "first", steps=100), "merged-taught-1")
    add("quiet-neurons", "neurons never switched on", "within 0.17", quiet_neurons(QUIET))
    add("merged-paths", "merged paths", "–", lambda model, bench: _made(model, merge_paths(model)))
    return found


def run(bench: Bench, techniques: Sequence[Technique], progress: Callable[[str], None] | None = None) -> list[dict]:
    """Measure the rows, or take them from the cache.

    Args:
        bench: teacher, data and settings.
        techniques: of :func:`rows`; the teacher as it is comes first.
        progress: called with a row's name before it is measured.
    Returns:
        Rows as :func:`course_lib.measure.techniques.measure` gives them, with ``macs_per_token`` (of a sentence of :func:`mean_pieces` pieces)
        and ``peak_bytes`` (:func:`peak_bytes`). One that failed has an ``error`` and no figures, and is tried again next time.
    """
    context, reference, table = bench.context, None, []
    gold = {part: [s.tags for s in getattr(context.corpus, part)] for part in PARTS}
    versions = [str(torch.__version__), machine(context.threads), context.seed, code()]
    for technique in techniques:
        target = context.cache.path(FAMILY, technique.name, bench.made_of(), versions)
        if not (context.cache.ready(target) and target.is_dir()):  # one that failed before is ready to the cache, and not there
            if progress:
                progress(technique.name)
            kept: list[nn.Module] = []
            try:
                row, predicted = measure(bench, _keeping(technique, kept), gold, reference)
                counted = {
                    "macs_per_token": macs_per_token(kept[0], mean_pieces(bench)),
                    "peak_bytes": peak_bytes(kept[0], bench),
                }
            except (CourseError, ValueError, RuntimeError) as error:
                none = {"macs_per_token": None, "peak_bytes": None}
                table.append(described(technique) | none | {"error": f"{type(error).__name__}: {error}"})
                continue
            with new_folder(target) as folder:
                write_json(folder / "row.json", row | counted)
                write_json(folder / "predicted.json", predicted if technique.name == DENSE else {})
        table.append(read_json(target / "row.json"))
        if technique.name == DENSE:
            reference = read_json(target / "predicted.json")
    return table


@functools.cache
def code() -> str:
    """Hash of the code that measures, as it was when this process began."""
    return code_digest(*CODE)


def mean_pieces(bench: Bench) -> float:
    """Pieces of a training sentence on average, special ones included."""
    windows = bench.prepared.windows
    return sum(len(w.ids) for w in windows) / len(windows)


def peak_bytes(model: nn.Module, bench: Bench) -> int:
    """Live tensor bytes at most, weights included, while the model reads the longest of the batches that it is timed with."""
    rows = timed_rows(bench.context.corpus.test, bench.tokenizer, bench.limit, bench.context.seed)
    ids, mask = max(padded(rows, BATCH), key=lambda batch: batch[0].size)
    with LiveBytes(model) as live:
        TorchEngine(model)(ids, mask)
    return live.peak


def _keeping(technique: Technique, kept: list[nn.Module]) -> Technique:
    """The technique, which also leaves its model in ``kept``."""

    def make(model: nn.Module, bench: Bench) -> Made:
        made = technique.make(model, bench)
        kept.append(made.model)
        return made

    fields = {name: getattr(technique, name) for name in Technique.__dataclass_fields__}
    return Technique(**fields | {"make": make})


def _made(model: nn.Module, report: object) -> Made:
    """What a transform left, with the first line of its report."""
    return Made(model, note=str(report).splitlines()[0])
