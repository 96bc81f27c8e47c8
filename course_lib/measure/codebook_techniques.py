"""More quantization rows of the technique table: codebooks, NF4, codewords of vectors, equalisation, and bits that differ by layer."""

import torch
from torch import nn

from course_lib.calibration import Channels
from course_lib.layerwise import collect
from course_lib.measure.quantization_techniques import BITS, ENCODER, as_made, group_size, rounding
from course_lib.measure.technique_bench import Bench
from course_lib.measure.technique_bytes import Made
from course_lib.measure.technique_row import Make, Technique
from course_lib.plan import match
from course_lib.quantization.apply import apply
from course_lib.quantization.awq import on_grid
from course_lib.quantization.bits import allocate_bits, measured_choices
from course_lib.quantization.equalise import equalise_values
from course_lib.quantization.scheme import Scheme, weight_bytes

MIXED = (2, 3, 4, 6, 8)  # bits among which each layer's are chosen


def rounding_as_small_as_codebooks(bits: int) -> Make:
    """Round to nearest, with as many scales as a codebook for each row has levels: K/2^b weights of a row of K share one."""

    def make(model: nn.Module, bench: Bench) -> Made:
        found = match(model, {ENCODER: None}).found
        return as_made(model, apply(model, {name: Scheme(bits, m.in_features // 2**bits) for name, (m, _) in found.items()}))

    return make


def weighted(bits: int) -> Make:
    """The best levels of each matrix, its columns weighted by the mean square of what they are multiplied with."""

    def make(model: nn.Module, bench: Bench) -> Made:
        layers = {name: m for name, (m, _) in match(model, {ENCODER: None}).found.items()}
        statistics = collect(model, layers, bench.batches(), Channels)
        squares = {name: statistic.norms().square() for name, statistic in statistics.items()}
        importance = {name: (square / square.mean()).float() for name, square in squares.items()}
        scheme = Scheme(bits, "tensor", codebook="kmeans")
        return as_made(model, apply(model, {ENCODER: scheme}, importance=importance))

    return make


def fisher_weighted(bits: int) -> Make:
    """The best levels of each matrix, each entry weighted by its Fisher diagonal: the mean square of its gradient, by example."""

    def make(model: nn.Module, bench: Bench) -> Made:
        layers = {name: m.weight for name, (m, _) in match(model, {ENCODER: None}).found.items()}
        squares = {name: torch.zeros_like(weight) for name, weight in layers.items()}
        for loss in bench.losses(model, 1):
            for square, gradient in zip(squares.values(), torch.autograd.grad(loss, list(layers.values())), strict=True):
                square += gradient.square()
        importance = {name: square / square.mean() for name, square in squares.items()}
        scheme = Scheme(bits, "tensor", codebook="kmeans")
        return as_made(model, apply(model, {ENCODER: scheme}, importance=importance))

    return make


def equalised(bits: int) -> Make:
    """Values and output projections of attention evened out against each other, then one scale for each matrix."""

    def make(model: nn.Module, bench: Bench) -> Made:
        equalise_values(model)
        return as_made(model, apply(model, {ENCODER: Scheme(bits, "tensor")}))

    return make


def mixed(bits: int) -> Make:
    """Bits for each layer by the validation loss they were measured to add, in the bytes of these bits for all."""

    def make(model: nn.Module, bench: Bench) -> Made:
        group, found = group_size(model), match(model, {ENCODER: None}).found
        budget = sum(weight_bytes(tuple(m.weight.shape), Scheme(bits, group)) for m, _ in found.values())
        choices = measured_choices(
            model, list(found), list(MIXED), bench.search_loss,
            lambda weight, b: on_grid(weight, Scheme(b, group)), lambda shape, b: weight_bytes(tuple(shape), Scheme(b, group)),
        )  # fmt: skip
        chosen = {name: choice.bits for name, choice in allocate_bits(choices, budget).items()}
        made = as_made(model, apply(model, {name: Scheme(b, group) for name, b in chosen.items()}))
        counts = ", ".join(f"{list(chosen.values()).count(b)} of {b}" for b in MIXED)
        made.note += f"; layers by bits: {counts}"
        return made

    return make


def rows() -> list[Technique]:
    """The rows; plain ones that are not here are in :mod:`course_lib.measure.quantization_techniques`."""
    found: list[Technique] = []

    def add(slug: str, method: str, strength: str, make: Make, plain: str | None = None) -> None:
        found.append(Technique(slug, method, "quantization", strength, make, plain))

    for b in BITS:
        asked, tensor = f"{b} bits", f"rtn-tensor-{b}"
        books = rounding(b, "tensor", codebook="kmeans")
        add(f"kmeans-tensor-{b}", "k-means codebook, per tensor", asked, books, tensor)
        add(f"equalised-{b}", "equalised values, rounding, per tensor", asked, equalised(b), tensor)
        if b == 8:  # 256 levels for a row are more bytes than its codes, and their exact search is long
            continue
        add(f"weighted-kmeans-{b}", "k-means codebook, weighted by inputs, per tensor", asked, weighted(b), tensor)
        add(f"fisher-kmeans-{b}", "k-means codebook, weighted by Fisher, per tensor", asked, fisher_weighted(b), tensor)
        add(f"rtn-as-kmeans-channel-{b}", "rounding, bytes of kmeans-channel", asked, rounding_as_small_as_codebooks(b))
        books = rounding(b, "channel", codebook="kmeans")
        add(f"kmeans-channel-{b}", "k-means codebook, per channel", asked, books, f"rtn-as-kmeans-channel-{b}")
        vectors = rounding(8, "tensor", codebook="vectors", size=8 // b)
        add(f"vectors-{b}", f"codewords of {8 // b} weights", asked, vectors, f"rtn-channel-{b}")
    add("nf4-4", "NF4, per group", "4 bits", rounding(4, "group", codebook="nf4"), "rtn-group-4")
    add("mixed-4", "bits by layer, per group", "4 bits", mixed(4), "rtn-group-4")
    return found
