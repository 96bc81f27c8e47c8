"""Static quantization of every node: not the inputs of linear layers alone, but all that any layer reads and puts out.

Tools that quantize a whole graph send each activation through 8 bits with one range of its own: what LayerNorm reads (the sum
of the residual connection), queries, keys and values, what GELU reads. Here that is simulated with fake quantization, to
find out which of them a model cannot bear (Bondarenko et al. 2021, 2109.12948: the sums after the feed-forward block).

A collapse of F1 from .94 to .10 has been published for another encoder with all nodes in min-max int8. Here all 115 nodes cost 5
points (.86 to .81 on the generated corpus, .62 to .55 on wikigold), and leaving two in float, what the first layer's feed-forward
block puts out and the sum it becomes part of, gave back three of them: the place the paper names. The collapse itself
is reproduced by a tool that also quantizes the *masked* attention scores, when its calibration batches hold padding
(:func:`course_lib.deploy.peers.static_qdq`): the mask's −3.4e38 sets the range. The nodes here are what modules read and put out;
the mask is applied inside one and is never rounded.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from course_lib.calibration import Batch, checked_batches
from course_lib.errors import CourseError, expect
from course_lib.layerwise import evaluating
from course_lib.plan import replace_module
from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.apply import Range
from course_lib.quantization.observers import MinMax
from course_lib.quantization.static import Metric, Sensitivity, swapped
from course_lib.report import Report, Reporting


class QuantizedNode(nn.Module):
    """A module whose first input, or output, or both go through asymmetric codes.

    Args:
        module: computes as before in between.
        ranges: "input" and "output" → range; what is absent stays as it is.
        bits: of the codes.
    """

    def __init__(self, module: nn.Module, ranges: Mapping[str, Range], bits: int = 8) -> None:
        super().__init__()
        expect(set(ranges) <= {"input", "output"}, "ranges", list(ranges), "'input' and 'output'")
        self.module, self.bits = module, bits
        self.codes = {side: choose_from_range(*ends, bits, symmetric=False) for side, ends in ranges.items()}

    def _through(self, side: str, x: torch.Tensor) -> torch.Tensor:
        return fake_quantize(x, *self.codes[side], self.bits, symmetric=False) if side in self.codes else x

    def forward(self, x: torch.Tensor, *arguments, **named) -> torch.Tensor:
        """As the module inside: x of any shape that it takes."""
        return self._through("output", self.module(self._through("input", x), *arguments, **named))


def node_ranges(model: nn.Module, batches: Iterable[Batch], observer: Callable[[], MinMax] = MinMax) -> dict[str, Range]:
    """The ranges of all that the innermost modules read and put out, over a calibration set, real tokens only.

    Args:
        model: called as ``model(**batch)``, without dropout; not changed.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        observer: makes an empty observer for a node.
    Returns:
        ``name:input`` and ``name:output`` → smallest and largest value, each a scalar. Inputs that are ids have none; dropout has none.
    """
    seen: dict[str, MinMax] = {}
    mask = torch.empty(0)

    def look(node: str, x: object) -> None:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            real = x[mask.bool()] if x.shape[:-1] == mask.shape else x  # position embeddings have no row for each token
            seen.setdefault(node, observer()).update(real)

    def hook(name: str) -> Callable:
        def look_at_both(module, arguments, output) -> None:
            look(f"{name}:input", arguments[0])
            look(f"{name}:output", output)

        return look_at_both

    innermost = {n: m for n, m in model.named_modules() if not len(list(m.children())) and not isinstance(m, nn.Dropout)}
    handles = [module.register_forward_hook(hook(name)) for name, module in innermost.items()]
    try:
        with evaluating(model):
            for batch in checked_batches(batches):
                mask = batch["attention_mask"]
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return {node: found.range() for node, found in seen.items()}


def quantize_nodes(model: nn.Module, ranges: Mapping[str, Range], bits: int = 8, exclude: Iterable[str] = ()) -> Report:
    """Send nodes through codes, in place: a simulation, for models that are not to be saved. Gradients do not pass.

    Args:
        model: floating point, or with linear layers quantized already.
        ranges: as of :func:`node_ranges`, two scalars each; those of the nodes to quantize.
        bits: of the codes.
        exclude: nodes to leave, names or patterns such as ``*.LayerNorm:input``.
    Raises:
        CourseError: a pattern that matches no node, or a node of no module.
    """
    new = _wrapped(model, ranges, bits, exclude)
    count = Reporting(model)
    for name, module in new.items():
        replace_module(model, name, module)
    changed = [f"{name}: {' and '.join(module.codes)} of {bits} bits" for name, module in new.items()]
    left = [node for node in ranges if node not in {f"{n}:{side}" for n, m in new.items() for side in m.codes}]
    return count.report(changed, [f"{node}: excluded" for node in left])


def node_scan(model: nn.Module, ranges: Mapping[str, Range], metric: Metric, bits: int = 8) -> list[Sensitivity]:
    """Send one node at a time through codes, and measure; the model is afterwards as it was.

    Args:
        model, ranges, bits: as for :func:`quantize_nodes` (each end of a range is a scalar).
        metric: of a model, higher is better, **on validation data**.
    Returns:
        One entry per node, the largest drop first.
    """
    whole, found = metric(model), []
    for node, ends in ranges.items():
        with swapped(model, _wrapped(model, {node: ends}, bits)):
            value = metric(model)
        found.append(Sensitivity(node, value, whole - value))
    return sorted(found, key=lambda s: -s.drop)


def _wrapped(model: nn.Module, ranges: Mapping[str, Range], bits: int, exclude: Iterable[str] = ()) -> dict[str, QuantizedNode]:
    """Module name → the module with its nodes."""
    expect(not isinstance(exclude, str), "exclude", exclude, "a list of names and patterns, not one string")
    left: set[str] = set()
    for pattern in exclude:
        matched = {node for node in ranges if fnmatch.fnmatchcase(node, pattern)}
        if not matched:
            raise CourseError(
                f"exclude: {pattern!r} matches none of the {len(ranges)} nodes, such as {next(iter(ranges), None)}."
            )
        left |= matched
    sides: dict[str, dict[str, Range]] = {}
    for node, ends in ranges.items():
        if node not in left:
            name, _, side = node.rpartition(":")
            sides.setdefault(name, {})[side] = ends
    modules = dict(model.named_modules())
    unknown = [name for name in sides if name not in modules]
    if unknown:
        raise CourseError(f"ranges: the model has no module {unknown[0]!r}; expected ranges of this model, by node_ranges.")
    return {name: QuantizedNode(modules[name], found, bits).train(modules[name].training) for name, found in sides.items()}
