"""``apply(model, plan)``: replace layers by quantized ones, with a report; and what a quantized layer is."""

import fnmatch
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.plan import Matches, match, replace_module
from course_lib.quantization.embedding import QuantizedEmbedding
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.packed_linear import CodebookLinear, Int4Linear, PackedLinear
from course_lib.quantization.scheme import Scheme
from course_lib.report import Report, Reporting, tensor_bytes

Quantized = (Int8Linear, PackedLinear, QuantizedEmbedding)
Range = tuple[torch.Tensor, torch.Tensor]


def apply(
    model: nn.Module,
    plan: Mapping[str, Scheme],
    ranges: Mapping[str, Range] | None = None,
    exclude: Iterable[str] = (),
    importance: Mapping[str, torch.Tensor] | None = None,
) -> Report:
    """Quantize the linear layers and embeddings a plan names, in place. All is checked before anything is changed.

    Args:
        model: floating point; modules that are quantized already may stand beside those the plan names.
        plan: module name or pattern → scheme, one pattern for a module.
        ranges: module name → smallest and largest input, for static activations (:mod:`course_lib.quantization.static`).
        exclude: names and patterns to leave in float, whatever the plan says.
        importance: module name → how much the error of each weight counts, ≥ 0, of a shape that broadcasts to the weight's, for
            k-means codebooks (:mod:`course_lib.quantization.codebooks`); the others count all alike.
    Returns:
        The report: a line for each layer replaced, and for each one skipped (tied weights, classes with a forward of their
        own, convolutions, what is excluded) the reason.
    Raises:
        CourseError: a pattern that matches nothing, or only what must be skipped, or a module twice; a module that is
            quantized already; a scheme that does not fit a layer.
    """
    new, skipped = quantized_modules(model, plan, ranges, exclude, importance)
    count, changed = Reporting(model), []
    for name, module in new.items():
        before = tensor_bytes(model.get_submodule(name))
        replace_module(model, name, module)
        changed.append(f"{name}: {before:,} → {tensor_bytes(module):,} bytes ({module.scheme})")
    return count.report(changed, skipped)


def quantized_modules(
    model: nn.Module,
    plan: Mapping[str, Scheme],
    ranges: Mapping[str, Range] | None = None,
    exclude: Iterable[str] = (),
    importance: Mapping[str, torch.Tensor] | None = None,
) -> tuple[dict[str, nn.Module], list[str]]:
    """The layers that :func:`apply` would put in, and its lines about skipped ones; the model is left as it is."""
    for pattern, scheme in plan.items():
        expect(isinstance(scheme, Scheme), f"plan[{pattern!r}]", scheme, "a Scheme")
    _refuse_quantized(model, plan)
    matches = match(model, plan, (nn.Linear, nn.Embedding, nn.Conv2d))
    left = _excluded(matches.found, exclude)
    ranges, importance = ranges or {}, importance or {}
    new, skipped = {}, list(matches.skipped)
    for name, (module, scheme) in matches.found.items():
        reason = "excluded" if name in left else _cannot(module)
        if reason:
            skipped.append(f"{name}: {reason}")
        else:
            made = quantized_module(name, module, scheme, ranges.get(name), importance.get(name))
            new[name] = made.train(module.training)
    _refuse_in_vain(matches, plan, new, left)
    return new, skipped


def quantized_module(
    name: str, module: nn.Module, scheme: Scheme, input_range: Range | None = None, importance: torch.Tensor | None = None
) -> nn.Module:
    """The quantized layer for a linear layer or an embedding.

    Args:
        name: of the module, for what an error says.
        module: ``nn.Linear`` or ``nn.Embedding``, floating point.
        scheme: what to make of it.
        input_range: the smallest and the largest input, for static activations.
        importance: of each weight, for k-means codebooks.
    Raises:
        CourseError: a scheme that does not fit, weights that are not finite, or a range that is missing.
    """
    try:
        if isinstance(module, nn.Embedding):
            return QuantizedEmbedding.from_float(module, scheme, importance)
        if scheme.activation != "none":
            expect(importance is None, "importance", "given", "None but for k-means codebooks")
            return Int8Linear.from_float(module, scheme, input_range)
        return packed_class(scheme).from_float(module, scheme, importance)
    except ValueError as error:
        raise CourseError(f"{name}: {error}. Nothing was changed.") from error


def empty_module(module: nn.Module, scheme: Scheme) -> nn.Module:
    """A quantized layer of zeros in the shape of a linear layer or an embedding, to be filled from a file.

    Raises:
        ValueError: a module of another kind, or a scheme that does not fit it.
    """
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(module.num_embeddings, module.embedding_dim, scheme)
    expect(isinstance(module, nn.Linear), "module", type(module).__name__, "a linear layer or an embedding")
    kind = Int8Linear if scheme.activation != "none" else packed_class(scheme)
    return kind(module.in_features, module.out_features, scheme, module.bias is not None)


def packed_class(scheme: Scheme) -> type[PackedLinear]:
    """The class of a linear layer with packed weights."""
    if scheme.codebook is not None:
        return CodebookLinear
    return Int4Linear if scheme.bits == 4 else PackedLinear


def _excluded(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Which of the modules that a plan names are to be left in float."""
    expect(not isinstance(patterns, str), "exclude", patterns, "a list of names and patterns, not one string")
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            raise CourseError(f"exclude: {pattern!r} matches none of the modules that the plan names. Nothing was changed.")
        found |= matched
    return found


def _refuse_quantized(model: nn.Module, plan: Mapping[str, Scheme]) -> None:
    for name, module in model.named_modules():
        pattern = next((p for p in plan if fnmatch.fnmatchcase(name, p)), None)
        if isinstance(module, Quantized) and pattern is not None:
            raise CourseError(
                f"plan: {pattern!r} matches {name}, which is quantized already ({type(module).__name__}, {module.scheme}). "
                "Quantize the float model afresh, or name only what is still in float. Nothing was changed."
            )


def _cannot(module: nn.Module) -> str | None:
    """Why a module has to stay in float."""
    if isinstance(module, nn.Conv2d):
        return "convolutions have no integer product here"
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "its parent reads the weight without calling it"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm rewrites rows as they are read"
    if module.weight.numel() == 0:
        return "it has no weights"
    return None


def _refuse_in_vain(matches: Matches, plan: Mapping[str, Scheme], new: Mapping[str, nn.Module], left: set[str]) -> None:
    """A pattern by which nothing is quantized is an error, unless ``exclude`` says so."""
    for pattern in plan:
        names = [name for name in matches.found if fnmatch.fnmatchcase(name, pattern)]
        stuck = [name for name in names if name not in new and name not in left]
        if stuck and not any(name in new or name in left for name in names):
            why = _cannot(matches.found[stuck[0]][0])
            raise CourseError(f"plan: {pattern!r} matches only modules that must stay in float ({stuck[0]}: {why}).")
