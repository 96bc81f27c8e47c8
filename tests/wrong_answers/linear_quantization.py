"""Lesson 06: range to scale and zero point, codes, error bounds, a scale for each group, corrected integer sums."""

import math

import torch

from wrong_answers import right, wrong

# scale_and_zero_point


@wrong("scale_and_zero_point", says="a zero point pushed into the codes")
def clips_the_zero_point(low: float, high: float, bits: int = 8):
    levels = 2**bits - 1
    scale = (high - low) / levels
    zero_point = round(-low / scale)
    return scale, max(0, min(levels, zero_point))


@wrong("scale_and_zero_point", says="which is none of the codes")
def takes_the_range_as_it_is(low: float, high: float, bits: int = 8):
    scale = (high - low) / (2**bits - 1)
    return scale, round(-low / scale)


@wrong("scale_and_zero_point", says="how many steps are between the first and the last?")
def divides_by_the_number_of_codes(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / 2**bits
    return scale, round(-low / scale)


@wrong("scale_and_zero_point", says="is cut off, not rounded")
def cuts_the_zero_point_off(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, math.floor(abs(low) / scale)


@wrong("scale_and_zero_point", says="It has to be a code, a whole number")
def leaves_the_zero_point_a_float(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, -low / scale


@wrong("scale_and_zero_point", says="it should give 0")
def forgets_the_minus(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, round(low / scale)


@wrong("scale_and_zero_point", says="right for codes that begin at")
def for_signed_codes(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, -(2 ** (bits - 1)) + round(-low / scale)


@wrong("scale_and_zero_point", says="You take the scale from the largest magnitude")
def as_for_symmetric_codes(low: float, high: float, bits: int = 8):
    largest = max(-low, high)
    return largest / (2 ** (bits - 1) - 1), 0


@wrong("scale_and_zero_point", says="the scale: ")
def zero_point_first(low: float, high: float, bits: int = 8):
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / (2**bits - 1)
    return round(-low / scale), scale


@right("scale_and_zero_point")
def with_tensors(low: float, high: float, bits: int = 8):
    ends = torch.tensor([low, 0.0, high], dtype=torch.float64)
    scale = (ends.max() - ends.min()) / (2**bits - 1)
    return scale, torch.round(-ends.min() / scale)


@right("scale_and_zero_point")
def by_cases(low: float, high: float, bits: int = 8):
    levels = (1 << bits) - 1
    if low > 0:
        return [high / levels, 0]
    if high < 0:
        return [-low / levels, levels]
    scale = (high - low) / levels
    return [scale, math.floor(-low / scale + 0.5)]


# to_codes


@wrong("to_codes", says="are cut off towards zero, not rounded")
def casts_the_steps(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    steps = (x / scale).int()
    return (steps + zero_point).clamp(0, 2**bits - 1).to(torch.uint8)


@wrong("to_codes", says="Every value gets the code below it")
def casts_at_the_end(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    codes = x / scale + zero_point
    return codes.clamp(min=0, max=2**bits - 1).byte()


@wrong("to_codes", says="in a byte, 256 becomes 0")
def straight_into_a_byte(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    codes = torch.round(x / scale).int() + zero_point
    return codes.to(torch.uint8)


@wrong("to_codes", says="codes that are in a byte already")
def limits_the_bytes(x, scale, zero_point, bits=8):
    in_bytes = ((x / scale).round() + zero_point).remainder(256).to(torch.uint8)
    return torch.clamp(in_bytes, 0, 2**bits - 1)


@wrong("to_codes", says="Your codes go from")
def without_limits(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return torch.round(x / scale).long() + zero_point


@wrong("to_codes", says="Which is the largest one?")
def limits_of_a_byte(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return torch.clamp(torch.round(x / scale) + zero_point, 0, 255).to(torch.uint8)


@wrong("to_codes", says="before the zero point is added")
def limits_too_early(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return torch.clamp(torch.round(x / scale), 0, 2**bits - 1).long() + zero_point


@wrong("to_codes", says="Yours subtracts where it should add")
def subtracts_the_zero_point(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return (torch.round(x / scale) - zero_point).clamp(0, 2**bits - 1).to(torch.uint8)


@wrong("to_codes", says="these are the limits of signed codes")
def limits_of_int8(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    most = 2 ** (bits - 1)
    return (torch.round(x / scale) + zero_point).clamp(-most, most - 1).long()


@wrong("to_codes", says="multiplied by the scale")
def multiplies(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return (torch.round(x * scale) + zero_point).clamp(0, 2**bits - 1).to(torch.uint8)


@wrong("to_codes", says="it returned a float tensor")
def codes_as_floats(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1)


@right("to_codes")
def rounds_after_the_shift(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    return torch.clip(torch.floor(x.double() / scale + zero_point + 0.5), 0, 2**bits - 1).long()


@right("to_codes")
def in_place_with_integer_limits(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    steps = x.div_(scale).round_().to(torch.int32)
    return torch.minimum(torch.maximum(steps + zero_point, torch.tensor(0)), torch.tensor(2**bits - 1))


# error_bounds


@wrong("error_bounds", says="you allow for a whole step")
def step_not_halved(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    scale = clip / (2 ** (bits - 1) - 1)
    over = x.abs() - clip
    return torch.where(over > 0, over, torch.full(x.shape, scale))


@wrong("error_bounds", says="it is off by more than half a step")
def forgets_the_clipping(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    return torch.ones_like(x) * clip / (2 ** (bits - 1) - 1) / 2


@wrong("error_bounds", says="how far off *these* values are")
def how_far_each_one_is(x, clip, bits=8):
    top = 2 ** (bits - 1) - 1
    code = torch.clamp((x * top / clip).round(), -top, top)
    return (code * clip / top - x).abs()


@wrong("error_bounds", says="Symmetric codes leave one out")
def steps_from_end_to_end(x, clip, bits=8):
    step = 2 * clip / (2**bits - 1)
    bounds = torch.full(x.shape, step / 2)
    bounds[x.abs() > clip] = x.abs()[x.abs() > clip] - clip
    return bounds


@wrong("error_bounds", says="From 0 to clip there are only the positive codes")
def counts_both_signs(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    half = 0.5 * clip / (2**bits - 1)
    return torch.where(x.abs() > clip, x.abs() - clip, torch.tensor(half))


@wrong("error_bounds", says="which is the largest symmetric code?")
def one_level_too_many(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    half = 0.5 * clip / 2 ** (bits - 1)
    return torch.where(x.abs() > clip, x.abs() - clip, torch.tensor(half))


@wrong("error_bounds", says="you still divide by 127")
def for_one_byte_only(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    return torch.where(x.abs() > clip, x.abs() - clip, torch.tensor(clip / 127 / 2))


@wrong("error_bounds", says="values below −clip are outside as well")
def looks_at_large_values_only(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    half = clip / (2 ** (bits - 1) - 1) / 2
    return torch.where(x > clip, x - clip, torch.tensor(half))


@wrong("error_bounds", says="you add half a step")
def both_errors_outside(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    half = clip / (2 ** (bits - 1) - 1) / 2
    return half + (x.abs() - clip).clamp(min=0)


@wrong("error_bounds", says="expected a float tensor")
def one_bound_for_all(x: torch.Tensor, clip: float, bits: int = 8) -> float:
    return clip / (2 ** (bits - 1) - 1) / 2


@right("error_bounds")
def the_larger_of_two(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    half = clip / (2 ** (bits - 1) - 1) / 2
    return (x.abs() - clip).clamp(min=half)


@right("error_bounds")
def by_masks_in_double(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    bounds = x.double().abs() - clip
    bounds[x.abs() <= clip] = clip / (2**bits - 2)
    return bounds


# dequantize


@wrong("dequantize", says="in these 9 − 10 is 255")
def stays_in_bytes(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    steps = codes - zero_point.repeat_interleave(size, 1)
    return steps * scale.repeat_interleave(size, 1)


@wrong("dequantize", says="a byte with a sign ends at")
def bytes_with_a_sign(codes, scale, zero_point):
    size = codes.shape[1] // scale.shape[1]
    signed, zeros = codes.to(torch.int8), zero_point.to(torch.int8).repeat_interleave(size, 1)
    return (signed - zeros).float() * scale.repeat_interleave(size, 1)


@wrong("dequantize", says="take turns, entry by entry")
def repeats_the_row_of_scales(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    return (codes.int() - zero_point.int().repeat(1, size)) * scale.repeat(1, size)


@wrong("dequantize", says="The zero point is added.")
def adds_the_zero_point(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    return (codes.int() + zero_point.int().repeat_interleave(size, 1)) * scale.repeat_interleave(size, 1)


@wrong("dequantize", says="it counts steps")
def scales_before_subtracting(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    return codes * scale.repeat_interleave(size, 1) - zero_point.repeat_interleave(size, 1)


@wrong("dequantize", says="the zero point is left out")
def scales_only(codes, scale, zero_point, block=None):
    return codes * scale.repeat_interleave(codes.shape[1] // scale.shape[1], 1)


@wrong("dequantize", says="this is the way back")
def divides_by_the_scale(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    return (codes.int() - zero_point.int().repeat_interleave(size, 1)) / scale.repeat_interleave(size, 1)


@wrong("dequantize", says="get its first scale")
def first_scale_of_the_row(codes, scale, zero_point, block=None):
    return (codes.int() - zero_point[:, 0].int()[:, None]) * scale[:, 0][:, None]


@wrong("dequantize", says="it raised RuntimeError")
def as_if_one_scale_fitted_all(codes, scale, zero_point, block=None):
    return (codes.int() - zero_point.int()) * scale


@right("dequantize")
def as_a_cube(codes, scale, zero_point, block=None):
    rows, groups = scale.shape
    cube = codes.reshape(rows, groups, -1).float()
    return ((cube - zero_point[:, :, None]) * scale[:, :, None]).reshape(codes.shape)


@right("dequantize")
def group_by_group_in_double(codes, scale, zero_point, block=None):
    size = codes.shape[1] // scale.shape[1]
    out = codes.double()
    for g in range(scale.shape[1]):
        here = slice(g * size, (g + 1) * size)
        out[:, here] = (out[:, here] - zero_point[:, g : g + 1]) * scale[:, g : g + 1].double()
    return out


# correct_sums


@wrong("correct_sums", says="Every sum is too small by the same multiple")
def leaves_the_last_term_out(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - a_zero * b_sums[None, :] - torch.outer(a_sums, b_zero)


@wrong("correct_sums", says="z·z_n is counted once")
def counts_the_last_term_once(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - a_zero * b_sums[None, :] - torch.outer(a_sums, b_zero) + a_zero * b_zero


@wrong("correct_sums", says="minus times minus")
def subtracts_all_three(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - (a_zero * b_sums + torch.outer(a_sums, b_zero) + inner * a_zero * b_zero)


@wrong("correct_sums", says="what stands beside z?")
def own_sums(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - (a_zero * a_sums).unsqueeze(1) - (b_sums * b_zero) + inner * a_zero * b_zero


@wrong("correct_sums", says="are spread along the wrong axis")
def row_sums_never_turned(products, a_sums, b_sums, inner, a_zero, b_zero):
    rows = a_sums * b_zero
    return products - a_zero * b_sums - rows + inner * a_zero * b_zero


@wrong("correct_sums", says="The corrections in the middle are added")
def adds_all(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products + a_zero * b_sums + torch.outer(a_sums, b_zero) + inner * a_zero * b_zero


@wrong("correct_sums", says="these have zero points as well")
def as_for_symmetric_weights(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - a_zero * b_sums.unsqueeze(0)


@wrong("correct_sums", says="Only the zero points of b are corrected")
def as_for_symmetric_inputs(products, a_sums, b_sums, inner, a_zero, b_zero):
    return products - a_sums.unsqueeze(1) * b_zero


@wrong("correct_sums", says="no longer integers")
def in_floats(products, a_sums, b_sums, inner, a_zero, b_zero):
    exact = products.double() - a_zero * b_sums - a_sums[:, None] * b_zero + inner * a_zero * b_zero
    return exact.float()


@right("correct_sums")
def from_centred_sums(products, a_sums, b_sums, inner, a_zero, b_zero):
    """``Σ a(b − z_n) − z·Σ (b − z_n)``: the same four terms, two by two."""
    return products - torch.outer(a_sums, b_zero) - a_zero * (b_sums - inner * b_zero)


@right("correct_sums")
def entry_by_entry(products, a_sums, b_sums, inner, a_zero, b_zero):
    out = products.long()
    for m in range(out.shape[0]):
        for n in range(out.shape[1]):
            z = int(b_zero[n])
            out[m, n] += inner * a_zero * z - a_zero * int(b_sums[n]) - z * int(a_sums[m])
    return out


@right("correct_sums")
def in_place(products, a_sums, b_sums, inner, a_zero, b_zero):
    products -= a_zero * b_sums
    products -= a_sums.view(-1, 1) * b_zero
    products += inner * a_zero * b_zero
    return products
