"""The quantization rows of the technique table: every way to choose codes, beside rounding to nearest at equal bytes.

All rows quantize the linear layers of the encoder; the rows that say so quantize the word embeddings instead. Codes cannot be
trained, so a recovery after quantizing trains what stayed in float (norms, embeddings, classifier); training that knows of the
codes beforehand is QAT, with rows of its own.
"""

import math
from dataclasses import replace

from torch import nn

from course_lib.measure.pruning_techniques import ENCODER
from course_lib.measure.technique_bench import Bench
from course_lib.measure.technique_bytes import Made
from course_lib.measure.technique_row import Make, Technique, recovered
from course_lib.plan import match
from course_lib.quantization.apply import apply
from course_lib.quantization.nodes import node_ranges, node_scan, quantize_nodes
from course_lib.quantization.observers import MinMax, Mse, Percentile
from course_lib.quantization.one_shot import Awq, Gptq, apply_awq, apply_gptq
from course_lib.quantization.qat import Qat, export, prepare_qat
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.smooth import Smooth, apply_smooth
from course_lib.quantization.static import find_exclusions, input_ranges, sensitivity_scan

BITS = (8, 4, 2)
RECOVERED = 4  # the bits at which a short training is tried
GROUP = 64  # weights that share a scale, or fewer where 64 does not divide a row
BUDGET = 0.005  # F1 that a static model may lose before layers are left in float
WORDS = "*word_embeddings"


def group_size(model: nn.Module) -> int:
    """The largest divisor of 64 that divides the rows of all linear layers of the encoder."""
    return math.gcd(GROUP, *(m.in_features for m, _ in match(model, {ENCODER: None}).found.values()))


def scheme(model: nn.Module, bits: int, granularity: str, **options: object) -> Scheme:
    """A scheme, with "group" for :func:`group_size`."""
    return Scheme(bits, group_size(model) if granularity == "group" else granularity, **options)


def rounding(bits: int, granularity: str, pattern: str = ENCODER, **options: object) -> Make:
    """Round to nearest, by :func:`course_lib.quantization.apply.apply`; or whatever codes the options ask for."""
    return lambda model, bench: as_made(model, apply(model, {pattern: scheme(model, bits, granularity, **options)}))


def gptq(bits: int) -> Make:
    """GPTQ in groups."""
    return lambda model, bench: as_made(
        model, apply_gptq(model, {ENCODER: Gptq(scheme(model, bits, "group"))}, bench.batches())
    )


def awq(bits: int) -> Make:
    """AWQ in groups."""
    return lambda model, bench: as_made(
        model, apply_awq(model, {ENCODER: Awq(scheme(model, bits, "group"))}, bench.batches(), seed=bench.context.seed)
    )


def smooth(bits: int) -> Make:
    """SmoothQuant, then dynamic int8 inputs and a scale for each row of the weight."""

    def make(model: nn.Module, bench: Bench) -> Made:
        apply_smooth(model, {ENCODER: Smooth()}, bench.batches())
        return as_made(model, apply(model, {f"{ENCODER}.linear": Scheme(bits, activation="dynamic")}))

    return make


def static(observer=MinMax, exclude: bool = False) -> Make:
    """int8 inputs with measured ranges; with ``exclude``, the layers that cost the most F1 stay in float."""

    def make(model: nn.Module, bench: Bench) -> Made:
        plan, left = {ENCODER: Scheme(8, activation="static")}, []
        ranges = input_ranges(model, [ENCODER], bench.batches(), observer)
        if exclude:
            scan = sensitivity_scan(model, plan, bench.metric, ranges)
            left = find_exclusions(model, plan, bench.metric, scan, BUDGET, ranges)
        made = as_made(model, apply(model, plan, ranges, left))
        made.note += f"; left in float: {', '.join(left) or 'none'}" if exclude else ""
        return made

    return make


def nodes(observer=MinMax, exclude: bool = False) -> Make:
    """Weights with one scale each, and every node (all that a module reads and puts out) through 8 bits, as a simulation.

    With ``exclude``, nodes that cost more F1 than the budget when they alone are quantized stay in float.
    """

    def make(model: nn.Module, bench: Bench) -> Made:
        ranges = node_ranges(model, bench.batches(), observer)
        left = [s.name for s in node_scan(model, ranges, bench.metric) if s.drop > BUDGET] if exclude else []
        apply(model, {ENCODER: Scheme(8, "tensor")})
        quantize_nodes(model, ranges, exclude=left)
        note = f"{len(ranges) - len(left)} of {len(ranges)} nodes of 8 bits"
        return Made(model, note=note + (f"; left in float: {', '.join(left) or 'none'}" if exclude else ""))

    return make


def qat(bits: int, step: str, activation_bits: int | None = None) -> Make:
    """Fake quantization while the short training lasts, then exactly its codes."""

    def make(model: nn.Module, bench: Bench) -> Made:
        ranges = None if activation_bits is None else input_ranges(model, [ENCODER], bench.batches())
        granularity = group_size(model) if activation_bits is None else "channel"
        prepare_qat(model, {ENCODER: Qat(bits, granularity, activation_bits, step)}, ranges)
        bench.train(model)
        return as_made(model, export(model))

    return make


def as_made(model: nn.Module, report: object) -> Made:
    """What a transform left, with the first line of its report."""
    return Made(model, note=str(report).splitlines()[0])


def rows() -> list[Technique]:
    """All quantization rows, each after the plain one it is compared with."""
    found: list[Technique] = []

    def add(slug: str, method: str, strength: str, make: Make, plain: str | None = None) -> None:
        found.append(Technique(slug, method, "quantization", strength, make, plain))

    for b in BITS:
        asked, group = f"{b} bits", f"rtn-group-{b}"
        for grain in ("tensor", "channel", "group"):
            plain = f"rtn-{grain}-{b}"
            add(plain, f"rounding, per {grain}", asked, rounding(b, grain))
            add(f"asymmetric-{grain}-{b}", f"asymmetric, per {grain}", asked, rounding(b, grain, symmetric=False), plain)
        add(f"gptq-{b}", "GPTQ, per group", asked, gptq(b), group)
        add(f"awq-{b}", "AWQ, per group", asked, awq(b), group)
        dynamic = f"int8-dynamic-{b}"
        add(dynamic, "rounding, int8 inputs per token", asked, rounding(b, "channel", activation="dynamic"))
        add(f"smoothquant-{b}", "SmoothQuant, int8 inputs per token", asked, smooth(b), dynamic)
        add(f"rtn-words-{b}", "rounding, word embeddings, per row", asked, rounding(b, "channel", WORDS))
        add(
            f"asymmetric-words-{b}", "asymmetric, word embeddings, per row", asked,
            rounding(b, "channel", WORDS, symmetric=False), f"rtn-words-{b}",
        )  # fmt: skip
    add("static-8", "static int8 inputs, min-max", "8 bits", static())
    add("static-mse-8", "static int8 inputs, MSE range", "8 bits", static(lambda: Mse(symmetric=False)), "static-8")
    add("static-excluded-8", "static int8 inputs, costly layers in float", "8 bits", static(exclude=True), "static-8")
    add("nodes-8", "static int8, every node, min-max", "8 bits", nodes())
    add("nodes-percentile-8", "static int8, every node, 99.99 % range", "8 bits", nodes(Percentile), "nodes-8")
    add("nodes-excluded-8", "static int8, every node but costly ones", "8 bits", nodes(exclude=True), "nodes-8")
    return found


def trained_rows(found: list[Technique]) -> list[Technique]:
    """The rows of ``found`` at one strength with a recovery after, and QAT.

    Integer products pass no gradient: rows with int8 inputs have none.
    """
    again = [t for t in found if t.strength == f"{RECOVERED} bits" and not t.name.startswith(("int8-dynamic", "smoothquant"))]
    again.append(next(t for t in found if t.name == "rtn-group-2"))  # beside QAT of 2 bits
    trained = [
        replace(t, name=f"{t.name}+recovery", make=recovered(t.make), plain=t.plain and f"{t.plain}+recovery", trained=True)
        for t in again
    ]
    for b in (4, 2):
        for step in ("moving", "learned"):
            fields = (f"qat-{step}-{b}", f"QAT, {step} steps, per group", "quantization", f"{b} bits", qat(b, step))
            trained.append(Technique(*fields, f"rtn-group-{b}+recovery", trained=True))
    static_qat = ("qat-static-8", "QAT, static int8 inputs", "quantization", "8 bits", qat(8, "moving", 8))
    return [*trained, Technique(*static_qat, "static-8", trained=True)]
