"""Pairs of ``make bench`` about quantization and one-shot pruning: observers, k-means, the column solvers, the integer layer."""

import contextlib
import io

import torch
from torch import nn

from course_lib.measure.bench_tensors import Pair, Sizes, agree, oracle
from course_lib.obs import damped, output_error
from course_lib.pruning.sparsegpt import sparsegpt
from course_lib.quantization.affine import choose_affine, quantize
from course_lib.quantization.exact_kmeans import optimal_levels
from course_lib.quantization.gptq import gptq
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.observers import Entropy, Mse, Percentile
from course_lib.quantization.scheme import Scheme

BINS = 2048
CLOSE = 1e-3  # of the squared output error: what float32 sums in another order, and ties they turn over, may change


def kmeans_of_scikit_learn(sizes: Sizes) -> Pair:
    """16 levels: the least squared error, against Lloyd's iterations from one start, whose error may be larger."""
    clusters = oracle("sklearn.cluster")
    x = torch.randn(sizes.width, sizes.width)
    column = x.view(-1, 1).numpy()
    ours = lambda: optimal_levels(x, 16)  # noqa: E731
    theirs = lambda _: clusters.KMeans(16, n_init=1, random_state=0).fit(column)  # noqa: E731
    levels = ours().double()
    near = levels[torch.bucketize(x.flatten().double(), (levels[1:] + levels[:-1]) / 2)]
    cost = float((x.flatten().double() - near).square().sum())
    agree(cost <= theirs(None).inertia_ * (1 + CLOSE), "k-means")  # their sum is in float32
    return Pair(f"exact k-means, 16 levels, {sizes.width} × {sizes.width} (scikit-learn's Lloyd)", ours, theirs, 4 * x.numel())


def percentile(sizes: Sizes) -> Pair:
    """The range of 99.9 % of the activations of a layer, batch by batch, against ONNX Runtime's collector."""
    return _observer(sizes, "percentile", lambda: Percentile(99.9, symmetric=True, bins=BINS), 0.02)


def entropy(sizes: Sizes) -> Pair:
    """The range of least information lost, against ONNX Runtime's collector, whose divergence is another: no range is compared."""
    return _observer(sizes, "entropy", lambda: Entropy(8, BINS), None)


def _batches(sizes: Sizes) -> list[torch.Tensor]:
    return list(torch.randn(4, sizes.tokens // 4, sizes.width))


def _observer(sizes: Sizes, method: str, make, tolerance: float | None) -> Pair:
    calibrate = oracle("onnxruntime.quantization.calibrate")
    batches = _batches(sizes)

    def ours() -> float:
        observer = make()
        for batch in batches:
            observer.update(batch)
        return float(observer.range()[1])

    def theirs(_) -> float:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            collector = calibrate.HistogramCollector(method, True, BINS, 128, 99.9, "same")
            for batch in batches:
                collector.collect({"x": [batch.numpy()]})
            return float(collector.compute_collection_result()["x"][1])

    a, b, largest = ours(), theirs(None), max(float(x.abs().max()) for x in batches)
    agree(0 < a <= largest and (tolerance is None or abs(a - b) <= tolerance * largest), method)
    name = f"{method} observer, {sizes.tokens} × {sizes.width} (ONNX Runtime)"
    return Pair(name, ours, theirs, 4 * sizes.tokens * sizes.width)


def mse(sizes: Sizes) -> Pair:
    """The range of least squared error, against torch's HistogramObserver, which looks for it too; ours is at most as far off."""
    from torch.ao.quantization import HistogramObserver

    batches = _batches(sizes)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        observer = Mse(8, symmetric=True, bins=BINS)
        for batch in batches:
            observer.update(batch)
        return observer.range()

    def theirs(_) -> tuple[torch.Tensor, torch.Tensor]:
        observer = HistogramObserver(bins=BINS, qscheme=torch.per_tensor_symmetric, dtype=torch.qint8)
        for batch in batches:
            observer(batch)
        return observer.calculate_qparams()

    x, top = torch.cat(batches), float(ours()[1])
    errors = []
    for scale, limit in ((top / 127, 127), (float(theirs(None)[0]), 128)):
        codes = (x / scale).round().clamp(-limit, 127)
        errors.append(float((x - codes * scale).square().sum(dtype=torch.float64)))
    agree(errors[0] <= errors[1] * 1.01, "MSE")  # ours is the best of a grid of 100 ranges
    return Pair(f"MSE observer, {sizes.tokens} × {sizes.width} (torch HistogramObserver)", ours, theirs, 4 * x.numel())


def _layer(sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(4 * sizes.width, sizes.width) * torch.rand(sizes.width)
    return torch.randn(4 * sizes.width, sizes.width), inputs.T @ inputs / len(inputs)


def _upper_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor of ``(H + λI)⁻¹`` as the papers' code takes it: factor, invert, factor again."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian, 0.01)))
    return torch.linalg.cholesky(inverse, upper=True).float()


def one_shot_pruning(sizes: Sizes) -> Pair:
    """SparseGPT at 50 %, against the plain loop over columns, each correcting all columns after it."""
    weight, hessian = _layer(sizes)

    def theirs(_) -> torch.Tensor:
        w, factor = weight.clone(), _upper_factor(hessian)
        for start in range(0, w.shape[1], 128):
            some = slice(start, start + 128)
            scores = w[:, some].square() / factor.diagonal()[some].square()
            gone = scores <= scores.flatten().kthvalue(scores.numel() // 2).values
            for j in range(start, min(start + 128, w.shape[1])):
                kept = torch.where(gone[:, j - start], 0.0, w[:, j])
                w[:, j:] -= ((w[:, j] - kept) / factor[j, j])[:, None] * factor[j, j:]
                w[:, j] = kept
        return w

    return _solvers("SparseGPT 50 %", weight, hessian, lambda: sparsegpt(weight, hessian, 0.5)[0], theirs)


def one_shot_rounding(sizes: Sizes) -> Pair:
    """GPTQ to 4 bits with a scale for each row, against the plain loop over columns."""
    weight, hessian = _layer(sizes)
    scale, zero_point = choose_affine(weight, 4, True, "channel")
    ours = lambda: gptq(weight, hessian, scale, zero_point, 4) * scale  # noqa: E731

    def theirs(_) -> torch.Tensor:
        w, factor = weight.clone(), _upper_factor(hessian)
        for j in range(w.shape[1]):
            rounded = (w[:, j] / scale[:, 0]).round().clamp(-7, 7) * scale[:, 0]
            w[:, j:] -= ((w[:, j] - rounded) / factor[j, j])[:, None] * factor[j, j:]
            w[:, j] = rounded
        return w

    plain = output_error(weight, quantize(weight, scale, zero_point, 4) * scale, hessian)
    agree(output_error(weight, ours(), hessian) < plain, "GPTQ and rounding to nearest")
    return _solvers("GPTQ 4 bits", weight, hessian, ours, theirs)


def _solvers(what: str, weight: torch.Tensor, hessian: torch.Tensor, ours, theirs) -> Pair:
    a, b = (output_error(weight, w, hessian) for w in (ours(), theirs(None)))
    agree(abs(a - b) <= CLOSE * b, what)
    return Pair(f"{what}, {tuple(weight.shape)} (loop over columns)", ours, theirs, 4 * weight.numel())


def int8_many(sizes: Sizes) -> Pair:
    """The integer layer on a batch of sentences, against ``quantize_dynamic``."""
    return _int8(sizes, sizes.tokens, True)


def int8_few(sizes: Sizes) -> Pair:
    """The integer layer on one short sentence, against ``quantize_dynamic``."""
    return _int8(sizes, 16, True)


def int8_many_float(sizes: Sizes) -> Pair:
    """The integer layer on a batch of sentences, against the float layer."""
    return _int8(sizes, sizes.tokens, False)


def int8_few_float(sizes: Sizes) -> Pair:
    """The integer layer on one short sentence, against the float layer."""
    return _int8(sizes, 16, False)


def _int8(sizes: Sizes, tokens: int, dynamic: bool) -> Pair:
    import warnings

    linear, x = nn.Linear(sizes.width, 4 * sizes.width), torch.randn(tokens, sizes.width)
    layer, other = Int8Linear.from_float(linear, Scheme(8, activation="dynamic")), linear
    if dynamic:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated
            other = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), dtype=torch.qint8)
    with torch.inference_mode():
        exact, a, b = linear(x), layer(x), other(x)
        steps = x.abs().amax(1, keepdim=True) / 127, linear.weight.abs().amax(1) / 127  # of each token and each row
        bound = x.abs().sum(1, keepdim=True) * steps[1] / 2 + steps[0] * linear.weight.abs().sum(1) / 2
        bound += sizes.width * steps[0] * steps[1] / 4
        agree(bool(((a - exact).abs() <= bound * (1 + CLOSE) + 1e-6).all()), "int8 linear")
        agree(float((b - exact).norm()) <= 0.05 * float(exact.norm()), "their linear")  # 7 bits, one scale for all tokens

    def run(module: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return module(x)

    name = f"int8 linear, {tokens} tokens, {sizes.width} → {4 * sizes.width} ({'quantize_dynamic' if dynamic else 'float'})"
    return Pair(name, lambda: run(layer), lambda _: run(other), 4 * linear.weight.numel() + 4 * tokens * 5 * sizes.width)


ALL = (
    kmeans_of_scikit_learn, percentile, mse, entropy, one_shot_pruning, one_shot_rounding, int8_many, int8_few, int8_many_float,
    int8_few_float,
)  # fmt: skip
