"""Lesson 06: scale and zero point, codes, error bounds, scales per group, the integer product with its corrections."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference, kind
from course_lib.quantization.affine import dequantize, fake_quantize
from course_lib.quantization.written_out import correct_sums, error_bounds, scale_and_zero_point, to_codes


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


# Scale and zero point from a range


def _range_cases(generator: torch.Generator) -> list[Case]:
    def around_zero(bits: int, part_of_a_step: float) -> tuple[float, float]:
        """A range in which −low / scale is a whole number and so much, never near a half."""
        top = 2**bits - 1
        scale, below = _uniform(generator, 0.01, 0.1), int(top * _uniform(generator, 0.2, 0.6))
        low = -(below + part_of_a_step) * scale
        return low, low + top * scale

    most = _uniform(generator, 4.0, 6.0)
    return [
        Case("a range from −1 to 254", (-1.0, 254.0, 8)),
        Case("a range around zero", (*around_zero(8, 0.3), 8)),
        Case("another range around zero", (*around_zero(8, 0.7), 8)),
        Case("16 codes", (*around_zero(4, 0.7), 4), part="bits"),
        Case("4 codes", (-1.0, 2.0, 2), part="bits"),
        Case("a range that begins at zero", (0.0, most, 8), part="zero in the range"),
        Case("a range of positive numbers only", (most / 2, most, 8), part="zero in the range"),
        Case("a range of negative numbers only", (-most, -most / 2, 8), part="zero in the range"),
    ]


def _range_mistake(low, high, bits, levels=None, widen=True, clip=False, rounding=round, shift=0):
    top = 2**bits - 1
    if widen:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (levels or top)
    zero_point = rounding(-low / scale) + shift
    return scale, min(max(zero_point, 0), top) if clip else zero_point


def _verify_range(case: Case, output) -> str | None:
    if isinstance(output, (tuple, list)) and len(output) == 2 and not isinstance(output[0], (tuple, list)):
        scale, zero_point = output
        wrong = difference(scale, scale_and_zero_point(*case.args)[0], rtol=1e-4)
        if wrong:
            return f"the scale: {wrong}"
        wrong = difference(zero_point, scale_and_zero_point(*case.args)[1])
        return wrong and f"the zero point: {wrong}"
    return difference(output, scale_and_zero_point(*case.args))


def _stands_for(case: Case, output) -> str:
    """What the code of the real number 0 stands for, with this answer's scale and zero point."""
    scale, zero_point = (float(v) for v in output)
    code = min(max(round(zero_point), 0), 2 ** case.args[2] - 1)
    return f"{(code - zero_point) * scale:.4g}"


RANGE = Exercise(
    id="scale_and_zero_point",
    title="a scale and a zero point from two conditions",
    points=3,
    difficulty=2,
    minutes=10,
    hints=(
        "Make sure that the range holds 0: `min(low, 0.0)` and `max(high, 0.0)`.",
        "From the first code to the last there are 2^b − 1 steps (not 2^b), and together they span high − low.",
        "low is at code 0. How many steps of the size `scale` lie between low and 0? Round that number: it is the zero point.",
    ),
    reference=scale_and_zero_point,
    cases=_range_cases,
    verify=_verify_range,
    misconceptions=(
        Misconception(
            "clipped",
            lambda low, high, bits=8: _range_mistake(low, high, bits, widen=False, clip=True),
            lambda case, output: (
                f"From {case.args[0]:.4g} to {case.args[1]:.4g} you get the scale {float(output[0]):.4g} and a zero point pushed into the codes, "
                f"{output[1]}. With these the codes reach from {-float(output[1]) * float(output[0]):.4g} to "
                f"{(2 ** case.args[2] - 1 - float(output[1])) * float(output[0]):.4g}: the range is no longer in it."
            ),
        ),
        Misconception(
            "not_widened",
            lambda low, high, bits=8: _range_mistake(low, high, bits, widen=False),
            lambda case, output: (
                f"From {case.args[0]:.4g} to {case.args[1]:.4g} you get the zero point {output[1]}, which is none of the codes 0 … "
                f"{2 ** case.args[2] - 1}. The real number 0 gets the code nearest to it, and that stands for {_stands_for(case, output)}."
            ),
        ),
        Misconception(
            "one_step_too_many",
            lambda low, high, bits=8: _range_mistake(low, high, bits, levels=2**bits),
            lambda case, output: (
                f"With {case.args[2]} bits you divide the range into {2 ** case.args[2]} steps. There are so many codes; "
                "how many steps are between the first and the last?"
            ),
        ),
        Misconception(
            "truncated",
            lambda low, high, bits=8: _range_mistake(low, high, bits, rounding=int),
            lambda case, output: (
                f"The zero point {output[1]} is cut off, not rounded: −low / scale is {-min(case.args[0], 0) / float(output[0]):.4g}."
            ),
        ),
        Misconception(
            "not_rounded",
            lambda low, high, bits=8: _range_mistake(low, high, bits, rounding=lambda z: z),
            lambda case, output: (
                f"Your zero point is {float(output[1]):.4g}. It has to be a code, a whole number: only then does a code stand for exactly 0."
            ),
        ),
        Misconception(
            "wrong_sign",
            lambda low, high, bits=8: _range_mistake(low, high, bits, rounding=lambda z: -round(z)),
            lambda case, output: (
                f"Your zero point is {output[1]}. Put low = {case.args[0]:.4g} into code = low / scale + zero_point: it should give 0."
            ),
        ),
        Misconception(
            "signed_codes",
            lambda low, high, bits=8: _range_mistake(low, high, bits, shift=-(2 ** (bits - 1))),
            lambda case, output: (
                f"Your zero point is {output[1]}, right for codes that begin at {-(2 ** (case.args[2] - 1))}. Here they begin at 0."
            ),
        ),
        Misconception(
            "from_the_largest",
            lambda low, high, bits=8: (max(abs(low), abs(high)) / (2 ** (bits - 1) - 1), 0),
            lambda case, output: (
                f"You take the scale from the largest magnitude, {max(abs(case.args[0]), abs(case.args[1])):.4g}, and zero point 0: symmetric "
                "codes. Here the codes are 0 … 2^b − 1 and the two ends of the range lie at the two ends of the codes."
            ),
        ),
    ),
)


# Codes


def _code_cases(generator: torch.Generator) -> list[Case]:
    def values(scale: float, *codes: int) -> torch.Tensor:
        """Values at these steps from zero, each up to 0.4 steps off: never near a tie."""
        steps = torch.tensor(codes).float()
        return (steps + torch.rand(len(codes), generator=generator) * 0.8 - 0.4) * scale

    scale = _uniform(generator, 0.02, 0.2)
    small = torch.randint(-90, 120, (4, 5), generator=generator).flatten().tolist()
    return [
        Case("a few values", (values(scale, -5, -2, -1, 0, 1, 3, 8), scale, 10, 8)),
        Case("values just above and below a half", (torch.tensor([-1.6, -1.4, -0.6, 0.6, 1.4, 1.6]), 1.0, 7, 8)),
        Case("a matrix", (values(scale, *small).view(4, 5), scale, 100, 8)),
        Case("exact zeros", (torch.tensor([0.0, 0.0]), scale, 37, 8), part="zeros"),
        Case("values beyond the range", (values(scale, -40, -11, 3, 245, 246, 400), scale, 10, 8), part="beyond the range"),
        Case("4 bits, values beyond the range", (values(scale, -9, -6, 0, 9, 11, 30), scale, 5, 4), part="beyond the range"),
    ]


def _codes(x, scale, zero_point, bits=8, low=0, top=None):
    return (torch.round(x / scale) + zero_point).clamp(low, 2**bits - 1 if top is None else top).int()


def _modulo(codes: torch.Tensor) -> torch.Tensor:
    """What whole numbers become in a byte that cannot hold them."""
    return (codes.long() % 256).to(torch.uint8)


CODES = Exercise(
    id="to_codes",
    title="from numbers to codes",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "How many steps is each value from zero? That number, rounded, plus the code of zero.",
        "`torch.round` rounds to the nearest; `.to(torch.uint8)` alone cuts off.",
        "What becomes of a value beyond the range? Its code must be clamped to 0 … 2^b − 1 *before* it is put into a byte.",
    ),
    reference=to_codes,
    cases=_code_cases,
    verify=lambda case, output: difference(output, to_codes(*case.args)),
    misconceptions=(
        Misconception(
            "cut_off",
            lambda x, scale, zero_point, bits=8: (x / scale).trunc().add(zero_point).clamp(0, 2**bits - 1).to(torch.uint8),
            lambda case, output: (
                f"Numbers {describe((case.args[0] / case.args[1]).flatten()[:4])} steps from zero are cut off towards zero, not rounded. "
                "The error can then be a whole step."
            ),
        ),
        Misconception(
            "rounded_down",
            lambda x, scale, zero_point, bits=8: (x / scale + zero_point).clamp(0, 2**bits - 1).to(torch.uint8),
            lambda case, output: (
                "Every value gets the code below it: turning a float into an integer cuts off, so all errors point the same way."
            ),
        ),
        Misconception(
            "wraps_around",
            lambda x, scale, zero_point, bits=8: _modulo(torch.round(x / scale) + zero_point),
            lambda case, output: (
                f"Values beyond the range come out as {describe(output.flatten()[-4:])}: in a byte, 256 becomes 0 and −1 becomes 255. "
                "A value just above the range must not turn into the lowest one."
            ),
        ),
        Misconception(
            "limited_in_the_byte",
            lambda x, scale, zero_point, bits=8: _modulo(torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1),
            lambda case, output: (
                f"Values beyond the range come out as {describe(output.flatten()[-4:])}: you limit codes that are in a byte already, where "
                "they have wrapped around."
            ),
        ),
        Misconception(
            "no_limits",
            lambda x, scale, zero_point, bits=8: (torch.round(x / scale) + zero_point).int(),
            lambda case, output: (
                f"Your codes go from {int(output.min())} to {int(output.max())}; with {case.args[3]} bits there are only 0 … {2 ** case.args[3] - 1}."
            ),
        ),
        Misconception(
            "always_8_bits",
            lambda x, scale, zero_point, bits=8: _codes(x, scale, zero_point, 8),
            lambda case, output: f"With {case.args[3]} bits a code came out as {int(output.max())}. Which is the largest one?",
        ),
        Misconception(
            "zero_point_after_the_limits",
            lambda x, scale, zero_point, bits=8: (torch.round(x / scale).clamp(0, 2**bits - 1) + zero_point).int(),
            lambda case, output: "All values below zero get the same code: you limit to 0 … before the zero point is added.",
        ),
        Misconception(
            "zero_point_taken_away",
            lambda x, scale, zero_point, bits=8: _codes(x, scale, -zero_point, bits),
            lambda case, output: (
                f"With a zero point of {case.args[2]} the real number 0 must get the code {case.args[2]}. Yours subtracts where it should add."
            ),
        ),
        Misconception(
            "signed_limits",
            lambda x, scale, zero_point, bits=8: _codes(x, scale, zero_point, bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
            lambda case, output: (
                f"Your codes stop at {2 ** (case.args[3] - 1) - 1}: these are the limits of signed codes. With a zero point they are 0 … "
                f"{2 ** case.args[3] - 1}."
            ),
        ),
        Misconception(
            "times_the_scale",
            lambda x, scale, zero_point, bits=8: _codes(x, 1 / scale, zero_point, bits),
            lambda case, output: (
                f"Nearly all codes are near {case.args[2]}: the values are multiplied by the scale. How many steps of size "
                f"{case.args[1]:.3g} is a value away from 0?"
            ),
        ),
    ),
)


# How far off


def _bound_cases(generator: torch.Generator) -> list[Case]:
    clip = _uniform(generator, 0.8, 1.5)
    inside = (torch.rand(3, 4, generator=generator) * 1.8 - 0.9) * clip
    beyond = torch.tensor([-3.0, -1.7, 0.2, 1.6, 5.0]) * clip
    return [
        Case("values inside the range", (inside, clip, 8)),
        Case("fewer bits", (inside, clip, 4), part="bits"),
        Case("2 bits, levels −clip, 0 and clip", (inside[0], clip, 2), part="bits"),
        Case("some values beyond the range", (beyond, clip, 8), part="beyond the range"),
        Case("a negative value beyond the range", (torch.tensor([-4.0, 0.5]), 2.0, 8), part="beyond the range"),
    ]


_NONE = torch.zeros(1, dtype=torch.int32)  # the zero point of symmetric codes


def _bounds(x, clip, bits, levels=None, factor=0.5, signed=False, extra=0.0, inside=1.0):
    half = factor * clip / (levels or (2 ** (bits - 1) - 1))
    size = x if signed else x.abs()
    return torch.where(size <= clip, torch.full_like(x, half * inside), size - clip + extra * half)


def _verify_bounds(case: Case, output) -> str | None:
    return difference(output, error_bounds(*case.args), rtol=1e-4, atol=1e-7)


BOUNDS = Exercise(
    id="error_bounds",
    title="how far a value can be from its code",
    points=2,
    difficulty=3,
    minutes=10,
    hints=(
        "Inside the range the nearest level is at most how far away, if neighbours are `scale` apart?",
        "A value beyond ±clip becomes ±clip. By how much is it off then? Use its size, so that both sides are covered.",
        "`torch.where(condition, a, b)` takes one or the other, entry by entry.",
    ),
    reference=error_bounds,
    cases=_bound_cases,
    verify=_verify_bounds,
    misconceptions=(
        Misconception(
            "a_whole_step",
            lambda x, clip, bits=8: _bounds(x, clip, bits, factor=1.0),
            lambda case, output: (
                "Inside the range you allow for a whole step. A value between two levels goes to the *nearer* one."
            ),
        ),
        Misconception(
            "no_clipping",
            lambda x, clip, bits=8: torch.full_like(x, clip / (2 ** (bits - 1) - 1) / 2),
            lambda case, output: (
                f"For x = {describe(case.args[0])} and clip = {case.args[1]:.3g} all bounds are {describe(output.flatten()[0])}. "
                f"A value of {float(case.args[0].abs().max()):.3g} becomes ±{case.args[1]:.3g}: it is off by more than half a step."
            ),
        ),
        Misconception(
            "the_error_itself",
            lambda x, clip, bits=8: (x - fake_quantize(x, torch.tensor([clip / (2 ** (bits - 1) - 1)]), _NONE, bits)).abs(),
            lambda case, output: (
                f"For x = {describe(case.args[0].flatten()[:3])} you compute how far off *these* values are. A bound holds for every value that lies "
                "inside, also for one halfway between two levels."
            ),
        ),
        Misconception(
            "all_the_codes",
            lambda x, clip, bits=8: _bounds(x, clip, bits, levels=2**bits - 1, factor=1.0),
            lambda case, output: (
                f"Your step is 2 · clip / {2 ** case.args[2] - 1}, as if all {2 ** case.args[2]} codes lay between the ends. Symmetric codes leave one out; "
                "how many steps are there from 0 to clip?"
            ),
        ),
        Misconception(
            "steps_of_both_signs",
            lambda x, clip, bits=8: _bounds(x, clip, bits, levels=2**bits - 1),
            lambda case, output: (
                f"Your step is {case.args[1]:.3g} / {2 ** case.args[2] - 1}. From 0 to clip there are only the positive codes."
            ),
        ),
        Misconception(
            "one_code_too_many",
            lambda x, clip, bits=8: _bounds(x, clip, bits, levels=2 ** (bits - 1)),
            lambda case, output: (
                f"Your step is {case.args[1]:.3g} / {2 ** (case.args[2] - 1)}. With {case.args[2]} bits, which is the largest symmetric code?"
            ),
        ),
        Misconception(
            "always_8_bits",
            lambda x, clip, bits=8: _bounds(x, clip, 8),
            lambda case, output: f"With {case.args[2]} bits you still divide by 127. Fewer bits, longer steps.",
        ),
        Misconception(
            "one_side_only",
            lambda x, clip, bits=8: _bounds(x, clip, bits, signed=True),
            lambda case, output: (
                f"x = {describe(case.args[0])} with clip = {case.args[1]:.3g}: values below −clip are outside as well, and yours get the bound "
                "of those inside."
            ),
        ),
        Misconception(
            "half_a_step_more",
            lambda x, clip, bits=8: _bounds(x, clip, bits, extra=1.0),
            lambda case, output: (
                "Beyond the range you add half a step. The end of the range is a level itself, so nothing is rounded there."
            ),
        ),
    ),
)


# Codes back to numbers, with a scale for each group


def _group_cases(generator: torch.Generator) -> list[Case]:
    def case(rows: int, columns: int, groups: int, label: str, part: str = "values") -> Case:
        codes = torch.randint(0, 256, (rows, columns), generator=generator, dtype=torch.uint8)
        scale = torch.rand(rows, groups, generator=generator) + torch.arange(1, groups + 1) / 4
        zero_point = torch.randint(90, 166, (rows, groups), generator=generator, dtype=torch.uint8)
        return Case(label, (codes, scale, zero_point), part=part)

    tiny = (
        torch.tensor([[0, 9, 10, 11]], dtype=torch.uint8),
        torch.tensor([[0.5, 2.0]]),
        torch.tensor([[10, 10]], dtype=torch.uint8),
    )
    return [
        Case("codes below the zero point", tiny),
        case(3, 8, 2, "two groups in each row"),
        case(4, 4, 2, "a square matrix"),
        case(2, 12, 4, "four groups in each row"),
        case(4, 6, 1, "a group for each row", part="edges"),
        case(2, 3, 3, "a group for each entry", part="edges"),
    ]


def _wide(values: torch.Tensor, columns: int) -> torch.Tensor:
    return values.repeat_interleave(columns // values.shape[1], dim=1)


def _with(codes, scale, zero_point, spread=_wide, formula=lambda c, s, z: (c - z) * s):
    columns = codes.shape[1]
    return formula(codes.float(), spread(scale, columns), spread(zero_point, columns).float())


def _bytes_only(codes, scale, zero_point, block=None):
    return (codes - _wide(zero_point, codes.shape[1])).float() * _wide(scale, codes.shape[1])


def _tiled(values: torch.Tensor, columns: int) -> torch.Tensor:
    return values.repeat(1, columns // values.shape[1])


GROUPS = Exercise(
    id="dequantize",
    title="back to numbers, with a scale for each group",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "With G scales in a row of C entries a group has C // G neighbours. Each scale must be repeated over its own group.",
        "`torch.tensor([[1, 2]]).repeat_interleave(3, dim=1)` is [[1, 1, 1, 2, 2, 2]]; `.repeat(1, 3)` is [[1, 2, 1, 2, 1, 2]].",
        "What is 9 − 10 in bytes that cannot be negative? Turn codes and zero points into floats (or int32) before you subtract.",
    ),
    reference=dequantize,
    cases=_group_cases,
    verify=lambda case, output: difference(output, dequantize(*case.args), rtol=1e-5, atol=1e-5),
    misconceptions=(
        Misconception(
            "bytes_wrap",
            _bytes_only,
            lambda case, output: (
                f"A code below its zero point comes back as something large ({float(output.max()):.4g} in your answer): codes and zero points "
                "are bytes without a sign, and in these 9 − 10 is 255."
            ),
        ),
        Misconception(
            "bytes_with_a_sign",
            lambda codes, scale, zero_point, block=None: (
                (codes - _wide(zero_point, codes.shape[1])).to(torch.int8).float() * _wide(scale, codes.shape[1])
            ),
            lambda case, output: (
                f"Codes far from their zero point come back on the wrong side ({float(output.min()):.4g} to {float(output.max()):.4g} in your answer): "
                "a byte with a sign ends at −128 and 127, and differences of two codes go further."
            ),
        ),
        Misconception(
            "tiled",
            lambda codes, scale, zero_point, block=None: _with(codes, scale, zero_point, _tiled),
            lambda case, output: (
                f"The {case.args[1].shape[1]} scales of a row take turns, entry by entry. Group 0 is the first "
                f"{case.args[0].shape[1] // case.args[1].shape[1]} entries, all together."
            ),
        ),
        Misconception(
            "zero_point_added",
            lambda codes, scale, zero_point, block=None: _with(codes, scale, zero_point, formula=lambda c, s, z: (c + z) * s),
            lambda case, output: "The zero point is added. Try a code equal to its zero point: it stands for 0.",
        ),
        Misconception(
            "scaled_first",
            lambda codes, scale, zero_point, block=None: _with(codes, scale, zero_point, formula=lambda c, s, z: c * s - z),
            lambda case, output: (
                "You scale first and subtract the zero point from the result. It is a code, not a number: it counts steps."
            ),
        ),
        Misconception(
            "no_zero_point",
            lambda codes, scale, zero_point, block=None: _with(codes, scale, zero_point, formula=lambda c, s, z: c * s),
            lambda case, output: "No value is below zero: the zero point is left out. It is the code that stands for 0.",
        ),
        Misconception(
            "divided",
            lambda codes, scale, zero_point, block=None: _with(codes, scale, zero_point, formula=lambda c, s, z: (c - z) / s),
            lambda case, output: "You divide by the scale. That is the way to the codes; this is the way back.",
        ),
        Misconception(
            "one_scale_for_a_row",
            lambda codes, scale, zero_point, block=None: _with(codes, scale[:, :1], zero_point[:, :1]),
            lambda case, output: (
                f"All {case.args[0].shape[1]} entries of a row get its first scale; there are {case.args[1].shape[1]} of them."
            ),
        ),
    ),
)


# Sums of products of codes, corrected


def _sum_cases(generator: torch.Generator) -> list[Case]:
    def case(rows: int, inner: int, columns: int, label: str, part: str = "values", b_zero=None, a_zero=None) -> Case:
        a = torch.randint(0, 256, (rows, inner), generator=generator, dtype=torch.int32)
        b = torch.randint(0, 256, (inner, columns), generator=generator, dtype=torch.int32)
        zeros = torch.randint(90, 166, (columns,), generator=generator, dtype=torch.int32)
        b_zero = zeros if b_zero is None else b_zero
        a_zero = int(torch.randint(50, 206, (), generator=generator)) if a_zero is None else a_zero
        return Case(label, (a @ b, a.sum(1).int(), b.sum(0).int(), inner, a_zero, b_zero), part=part)

    none = torch.zeros(3, dtype=torch.int32)
    return [
        case(1, 2, 1, "one row, one column, K = 2"),
        case(2, 5, 3, "two rows, three columns"),
        case(3, 7, 3, "as many rows as columns"),
        case(2, 5, 3, "symmetric weights, b_zero = 0", part="edges", b_zero=none),
        case(2, 5, 3, "symmetric inputs, a_zero = 0", part="edges", a_zero=0),
    ]


def _sums(p, a, b, k, za, zb, signs=(-1, -1, 1), count=None):
    return p + signs[0] * za * b + signs[1] * a[:, None] * zb + signs[2] * (k if count is None else count) * za * zb


def _swapped(p, a, b, k, za, zb):
    return p - za * a[:, None] - b * zb + k * za * zb


def _broadcast(p, a, b, k, za, zb):
    return p - za * b - a * zb + k * za * zb


def _verify_sums(case: Case, output) -> str | None:
    expected = correct_sums(*case.args)
    if kind(output) == "float tensor" and output.shape == expected.shape and torch.equal(output.double(), expected.double()):
        return "the sums are right but no longer integers; they should stay int32"
    return difference(output, expected)


SUMS = Exercise(
    id="correct_sums",
    title="the corrections of an integer product",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "Multiply (a − z)(b − z_n) out on paper: four terms. Sum each of them over k.",
        "Σ_k of a term that has only b in it is a column's sum, times z; Σ_k of a constant is K times it.",
        "`a_sums` belongs to rows: as `a_sums[:, None]`, shape (M, 1), it broadcasts over the columns. `b_sums` and `b_zero` do so as they are.",
    ),
    reference=correct_sums,
    cases=_sum_cases,
    verify=_verify_sums,
    misconceptions=(
        Misconception(
            "constant_left_out",
            lambda p, a, b, k, za, zb: _sums(p, a, b, k, za, zb, signs=(-1, -1, 0)),
            lambda case, output: (
                f"Every sum is too small by the same multiple of its column's zero point. (−z)·(−z_n) is a product too, and it occurs K = {case.args[3]} times."
            ),
        ),
        Misconception(
            "constant_once",
            lambda p, a, b, k, za, zb: _sums(p, a, b, k, za, zb, count=1),
            lambda case, output: f"z·z_n is counted once. It stands under the sum over k, of K = {case.args[3]} terms.",
        ),
        Misconception(
            "constant_subtracted",
            lambda p, a, b, k, za, zb: _sums(p, a, b, k, za, zb, signs=(-1, -1, -1)),
            lambda case, output: "The last correction has the wrong sign: minus times minus.",
        ),
        Misconception(
            "sums_swapped",
            _swapped,
            lambda case, output: (
                "Each zero point is multiplied by the sum of its own codes. In (a − z)(b − z_n), what stands beside z?"
            ),
        ),
        Misconception(
            "rows_as_columns",
            _broadcast,
            lambda case, output: (
                f"With {case.args[0].shape[0]} rows and {case.args[0].shape[1]} columns the sums of a's rows, shape {tuple(case.args[1].shape)}, "
                "are spread along the wrong axis: a tensor of one dimension broadcasts over columns."
            ),
        ),
        Misconception(
            "added",
            lambda p, a, b, k, za, zb: _sums(p, a, b, k, za, zb, signs=(1, 1, 1)),
            lambda case, output: "The corrections in the middle are added: this is the product of (a + z)(b + z_n).",
        ),
        Misconception(
            "inputs_only",
            lambda p, a, b, k, za, zb: p - za * b,
            lambda case, output: (
                "Only the zero point of a is corrected. That is enough for symmetric weights; these have zero points as well."
            ),
        ),
        Misconception(
            "weights_only",
            lambda p, a, b, k, za, zb: p - a[:, None] * zb,
            lambda case, output: "Only the zero points of b are corrected; a has one too.",
        ),
    ),
)


EXERCISES = (RANGE, CODES, BOUNDS, GROUPS, SUMS)

QUESTIONS = (
    Question(
        "zero_point_of_a_range",
        "Activations lie between −0.5 and 1.5 and get 8 bits, codes 0 … 255. Which code stands for the real number 0?",
        number=64.0,
        tolerance=0.0,
        explanation="The scale is 2 / 255, and 0 lies 0.5 / (2 / 255) = 63.75 steps above the lower end: rounded, code 64.",
        slips=(
            (63.75, "So many steps lie below 0. Is that a code?"),
            (63.0, "Cut off, not rounded: which whole number is nearest?"),
            (128.0, "The middle of the codes would stand for the middle of the range. Is that 0?"),
        ),
    ),
    Question(
        "zero_point_not_whole",
        "A library keeps the zero point as a float, 63.75 in the example above, so that both ends of the range are met exactly. What breaks first?",
        (
            Choice(
                "Exact zeros: padding, pruned weights and the output of a ReLU come back as a small number",
                "No code stands for 0, so every exact zero is off by a quarter of a step, all in the same direction. One such error is harmless; "
                "a sum over thousands of zeros is not, and a pruned weight is no longer pruned.",
                right=True,
            ),
            Choice("The largest values: they no longer fit", "They fit even better: both ends now lie exactly on a code."),
            Choice(
                "Nothing: a quarter of a step is less than the rounding error of the other values",
                "It is smaller than theirs, but theirs have both signs and cancel in a sum; these all have the same.",
            ),
        ),
    ),
    Question(
        "outlier_in_a_row",
        "A matrix has one weight 100 times as large as all the others. Which change helps the other weights in its own row?",
        (
            Choice(
                "A scale for each row instead of one for all",
                "That frees the other rows. In the row of the outlier the step is as long as before.",
            ),
            Choice(
                "A zero point",
                "A zero point moves the range; it does not make it narrower where both signs occur.",
            ),
            Choice(
                "A scale for each group of 64 neighbours",
                "Now only the 63 neighbours in its group share the long step; the rest of the row is free. The price is a scale for every 64 weights.",
                right=True,
            ),
            Choice(
                "Rounding to even instead of away from zero",
                "Ties are rare among real weights. The length of the step is what hurts.",
            ),
        ),
    ),
)
