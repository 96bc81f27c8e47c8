"""Number formats down to the bit: sign, exponent, mantissa, and the steps between the numbers they can hold.

A code is the sign bit, then the exponent E, then the mantissa M (m bits). With bias b it stands for
``(−1)^s · 2^(E−b) · (1 + M/2^m)``, and at E = 0 for ``(−1)^s · 2^(1−b) · M/2^m``: the subnormals, which fill the gap around
zero at the spacing of the smallest normal numbers. So the codes of the positive numbers count them in order, and encoding is
counting steps: from the start of the number's power of two, so many of its spacing.

Source: IEEE 754-2019 (fp32, fp16); Kalamkar et al. 2019, 1905.12322 (bf16); Micikevicius et al. 2022, 2209.05433 (e4m3, e5m2).
"""

from dataclasses import dataclass

import torch

from course_lib.errors import expect

OVERFLOWS = ("infinity", "largest", "nan")


@dataclass(frozen=True)
class NumberFormat:
    """A binary floating-point format with one sign bit.

    Attributes:
        name: what it is called.
        exponent_bits, mantissa_bits: of a code.
        dtype: torch's type of that format.
        has_infinity: the top exponent is kept for infinity and NaN, as IEEE 754 has it; else only the very last code of
            each sign is NaN, and the top exponent holds numbers too.
        overflow: what a number that rounds beyond the largest becomes: "infinity", "largest" or "nan".

    >>> FP16.largest, FP16.smallest_normal, FP16.epsilon, FP16.bias
    (65504.0, 6.103515625e-05, 0.0009765625, 15)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    dtype: torch.dtype
    has_infinity: bool = True
    overflow: str = "infinity"

    def __post_init__(self) -> None:
        expect(2 <= self.exponent_bits <= 8, "exponent_bits", self.exponent_bits, "2 to 8 bits")
        expect(1 <= self.mantissa_bits <= 23, "mantissa_bits", self.mantissa_bits, "1 to 23 bits")
        expect(self.overflow in OVERFLOWS, "overflow", self.overflow, f"one of {OVERFLOWS}")
        possible = self.has_infinity or self.overflow != "infinity"
        expect(possible, "overflow", self.overflow, "'largest' or 'nan' for a format without infinity")

    @property
    def bits(self) -> int:
        """Of a code, the sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is taken off the exponent bits, ``2^(e−1) − 1``: half of the exponents are below 0."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def lowest_exponent(self) -> int:
        """Power of two of the smallest normal number; the subnormals below keep its spacing."""
        return 1 - self.bias

    @property
    def largest_code(self) -> int:
        """Code of the largest finite number; the one after it is infinity, or NaN where there is none."""
        end = 2 ** (self.bits - 1) - 1  # every bit but the sign
        return end - 2**self.mantissa_bits if self.has_infinity else end - 1

    @property
    def nan_code(self) -> int:
        """A positive quiet NaN: the exponent full and the mantissa's first bit set, or full too."""
        return self.largest_code + 1 + (2 ** (self.mantissa_bits - 1) if self.has_infinity else 0)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(decode(torch.tensor(self.largest_code), self))

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with a full mantissa."""
        return 2.0**self.lowest_exponent

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number; half of it and less rounds to 0."""
        return 2.0 ** (self.lowest_exponent - self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """The step from 1 to the next number. Rounding to nearest errs by at most half of it, relative, between the normals."""
        return 2.0**-self.mantissa_bits


FP32 = NumberFormat("fp32", 8, 23, torch.float32)
FP16 = NumberFormat("fp16", 5, 10, torch.float16)
BF16 = NumberFormat("bf16", 8, 7, torch.bfloat16)
E5M2 = NumberFormat("e5m2", 5, 2, torch.float8_e5m2)
# Of e4m3 the standard leaves the overflow open. Torch casts to the largest number since 2.13 and to NaN before, as ml_dtypes does.
E4M3 = NumberFormat("e4m3", 4, 3, torch.float8_e4m3fn, has_infinity=False, overflow="largest")
ALL = (FP32, FP16, BF16, E4M3, E5M2)


def encode(x: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    """The code of the number nearest to each value, of two equally near the one whose code is even.

    ``code = (e − e_min)·2^m + round(|x| / 2^(e−m))`` with ``2^e ≤ |x| < 2^(e+1)``, e at least the lowest exponent.

    It rounds once. Torch's casts from float64 go by way of float32 and round twice: 1 + 2⁻⁸ + 2⁻⁴⁰ is nearest to 1 + 2⁻⁷ in bf16,
    and torch makes it 1.

    Args:
        x: float64 or any narrower floating type, any shape. All NaN get one code, with their sign.
        form: the format.
    Returns:
        int64, the shape of ``x``.
    Raises:
        ValueError: values that are no floating-point numbers.

    >>> encode(torch.tensor([1.0, -2.5, 6e-8, 70000.0]), FP16).tolist()
    [15360, 49408, 1, 31744]
    """
    expect(x.is_floating_point(), "x.dtype", x.dtype, "floating point")
    x = x.double()
    size = x.nan_to_num(0.0, posinf=torch.inf, neginf=-torch.inf).abs().clamp(max=2.0 * form.largest)
    exponent = _exponent(size, form)
    steps = torch.round(
        size / _power_of_two(exponent - form.mantissa_bits)
    ).long()  # the quotient is exact, and ties go to even
    codes = ((exponent - form.lowest_exponent) << form.mantissa_bits) + steps  # 2^(m+1) steps carry into the exponent
    beyond = {"infinity": form.largest_code + 1, "largest": form.largest_code, "nan": form.nan_code}[form.overflow]
    codes = torch.where(codes > form.largest_code, beyond, codes)
    codes = torch.where(x.isnan(), form.nan_code, codes)
    return codes + (torch.signbit(x).long() << (form.bits - 1))


def decode(codes: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    """The number that each code stands for, exactly.

    Args:
        codes: whole numbers from 0 to 2^bits − 1, any shape.
        form: the format.
    Returns:
        float64, the shape of ``codes``.
    Raises:
        ValueError: values that are no codes of the format.

    >>> decode(torch.tensor([15360, 49408, 1, 31744]), FP16).tolist()
    [1.0, -2.5, 5.960464477539063e-08, inf]
    """
    expect(not codes.is_floating_point() and codes.dtype != torch.bool, "codes.dtype", codes.dtype, "whole numbers")
    codes = codes.long()
    inside = bool(((codes >= 0) & (codes < 2**form.bits)).all())
    expect(inside, "codes", codes.flatten()[:5].tolist(), f"codes from 0 to {2**form.bits - 1}")
    size = codes & (2 ** (form.bits - 1) - 1)
    exponent, mantissa = size >> form.mantissa_bits, size & (2**form.mantissa_bits - 1)
    steps = mantissa + (exponent > 0) * 2**form.mantissa_bits  # a normal number has a leading 1 that is not stored
    power = exponent.clamp(min=1) - form.bias - form.mantissa_bits
    value = steps.double() * _power_of_two(power)
    top = torch.where((size == form.largest_code + 1) & form.has_infinity, torch.inf, torch.nan).double()
    value = torch.where(size > form.largest_code, top, value)
    return torch.where(codes >> (form.bits - 1) == 1, -value, value)


def rounded(x: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    """Each value as the format holds it: float64, the shape of ``x``.

    >>> rounded(torch.tensor([0.1, 3.14159, 1000.0]), E4M3).tolist()
    [0.1015625, 3.25, 448.0]
    """
    return decode(encode(x, form), form)


def spacing(x: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    """The step between neighbours where x lies, ``2^(e−m)``: from 2^e to 2^(e+1), and of the subnormals around 0.

    Args:
        x: floating point, any shape, not beyond the largest number.
    Returns:
        float64, the shape of ``x``.
    Raises:
        ValueError: values that the format does not reach, or NaN.

    >>> spacing(torch.tensor([0.0, 1.0, 1000.0]), BF16).tolist()
    [9.183549615799121e-41, 0.0078125, 4.0]
    """
    expect(x.is_floating_point(), "x.dtype", x.dtype, "floating point")
    size = x.double().abs()
    within = bool((size <= form.largest).all())
    expect(within, "x", x.flatten()[:5].tolist(), f"numbers from −{form.largest:g} to {form.largest:g}")
    return _power_of_two(_exponent(size, form) - form.mantissa_bits)


def all_values(form: NumberFormat) -> torch.Tensor:
    """Every number of a format of 16 bits or fewer by its code, infinities and NaN included: float64 (2^bits,).

    Raises:
        ValueError: a format of more bits.

    >>> all_values(E5M2)[:5].tolist()
    [0.0, 1.52587890625e-05, 3.0517578125e-05, 4.57763671875e-05, 6.103515625e-05]
    """
    expect(form.bits <= 16, "form", form.name, "a format of at most 16 bits")
    return decode(torch.arange(2**form.bits), form)


def written(code: int, form: NumberFormat) -> str:
    """The bits of a code, parted into sign, exponent and mantissa.

    >>> written(49408, FP16), written(0b0_0001_101, E4M3)
    ('1 10000 0100000000', '0 0001 101')
    """
    expect(0 <= code < 2**form.bits, "code", code, f"a code from 0 to {2**form.bits - 1}")
    digits = f"{code:0{form.bits}b}"
    return f"{digits[0]} {digits[1 : 1 + form.exponent_bits]} {digits[1 + form.exponent_bits :]}"


def _exponent(size: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    """e with ``2^e ≤ size < 2^(e+1)``, read from the bits of the float64, but no lower than the format's lowest."""
    return ((size.view(torch.int64) >> 52) - 1023).clamp(min=form.lowest_exponent)


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent as float64, put together from its bits, since ``pow`` may be off in the last one."""
    return ((exponent + 1023) << 52).view(torch.float64)
