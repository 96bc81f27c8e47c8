"""A linear layer that computes with integers: int8 codes in, int32 sums, and scales in the end."""

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.quantization.affine import choose_affine, choose_from_range, dequantize, quantize
from course_lib.quantization.int_matmul import centred_matmul, to_int8
from course_lib.quantization.prepacked import Prepacked, prepack, prepacked_matmul
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.straight_through import IntegerProduct

CHUNK = 256  # tokens at a time: their codes and sums stay in the processor's cache


def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 codes of each row, with a scale of its own: ``scale = max|x| / 127`` (Yao et al. 2022, 2206.01861).

    The same codes and scales as ``choose_affine`` and ``quantize`` with granularity "channel", in fewer passes. A row with NaN
    or Inf gets a scale that is not finite, so that what is computed from it is not finite either.

    Args:
        x: float32 (M, K), K above 0.
    Returns:
        Codes int8 (M, K), and scales float32 (M, 1), 1 for a row of zeros.

    >>> codes, scale = quantize_tokens(torch.tensor([[254.0, -3.0], [0.0, 0.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -2], [0, 0]], [[2.0], [1.0]])
    """
    largest = x.abs().amax(1, keepdim=True)
    scale = (largest / 127).clamp_(min=torch.finfo(torch.float32).tiny).masked_fill_(largest == 0, 1.0)
    return (x / scale).round_().to(torch.int8), scale


class Int8Linear(nn.Module):
    """``y = s_x·s_w·Σ_k (q_x − z_x)(q_w − z_w) + b``: a product of integers, then the scales and the bias in float32.

    Weight codes lie in memory as a byte each, whatever their bits. Activations get codes as they come: "dynamic", symmetric
    int8 and per token; "static", asymmetric with the scale and zero point of calibration, one for all; what lies
    outside that range gets its end. Gradients do not pass, unless asked to. Change codes by :meth:`store` alone. Once used, oneDNN's layout of the
    codes takes their bytes again (:mod:`course_lib.quantization.prepacked`). Jacob et al. 2017, 1712.05877.

    Args:
        in_features, out_features: K and N.
        scheme: one with dynamic or static activations.
        bias: whether there is one.
    Attributes:
        codes: (N, K), int8, or uint8 for asymmetric schemes.
        scale: float32 (N, 1) or (1, 1); ``zero_point``: uint8 of that shape, or None.
        input_scale, input_zero_point: float32 and uint8, numbers; None for dynamic activations.
        pass_gradients: gradients reach the input as if the weight were the dequantized one, for what is trained around it.
    """

    def __init__(self, in_features: int, out_features: int, scheme: Scheme, bias: bool = True) -> None:
        super().__init__()
        expect(scheme.activation != "none", "scheme", str(scheme), "dynamic or static activations")
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        self.code_count = in_features * out_features
        counts = (out_features, 1) if scheme.granularity == "channel" else (1, 1)
        dtype, static = torch.int8 if scheme.symmetric else torch.uint8, scheme.activation == "static"
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=dtype))
        self.register_buffer("scale", torch.ones(counts))
        self.register_buffer("zero_point", None if scheme.symmetric else torch.zeros(counts, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self.register_buffer("input_scale", torch.tensor(1.0) if static else None)
        self.register_buffer("input_zero_point", torch.tensor(0, dtype=torch.uint8) if static else None)
        self.register_buffer("row_sums", torch.zeros(out_features, dtype=torch.int32) if static else None, persistent=False)
        self.pass_gradients = False
        self._prepacked: Prepacked | bool | None = None  # None: not tried yet; False: not possible here
        self.register_load_state_dict_post_hook(_codes_changed)

    @classmethod
    def from_float(
        cls, linear: nn.Linear, scheme: Scheme, input_range: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> "Int8Linear":
        """Round the weight of a layer to the nearest codes.

        Args:
            linear: floating point, finite.
            scheme: one with dynamic or static activations.
            input_range: the smallest and the largest input, for static activations.
        Raises:
            ValueError: a weight that is empty, of integers or not finite, or no range where one is needed.
        """
        weight, where = linear.weight.detach(), ()
        scale, zero_point = choose_affine(weight, scheme.bits, scheme.symmetric, scheme.granularity)
        if scheme.activation == "static":
            expect(input_range is not None, "input_range", input_range, "the smallest and the largest input, by calibration")
            where = choose_from_range(*input_range, scheme.activation_bits, symmetric=False)
        codes = quantize(weight, scale, zero_point, scheme.bits, scheme.symmetric)
        return cls.from_codes(codes, scale, zero_point, linear.bias, scheme, *where)

    @classmethod
    def from_codes(
        cls,
        codes: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None,
        bias: torch.Tensor | None,
        scheme: Scheme,
        input_scale: torch.Tensor | None = None,
        input_zero_point: torch.Tensor | None = None,
    ) -> "Int8Linear":
        """A layer whose codes somebody else chose; see the attributes of the class.

        Raises:
            ValueError: codes that are no matrix or of another dtype, or scales that do not fit.
        """
        expect(codes.dim() == 2, "codes", tuple(codes.shape), "a matrix")
        dtype = torch.int8 if scheme.symmetric else torch.uint8
        expect(codes.dtype == dtype, "codes", codes.dtype, str(dtype))
        layer = cls(codes.shape[1], codes.shape[0], scheme, bias is not None)
        given = {"codes": codes, "scale": scale, "zero_point": zero_point if layer.zero_point is not None else None}
        given |= {"bias": bias, "input_scale": input_scale, "input_zero_point": input_zero_point}
        for name, value in given.items():
            due = getattr(layer, name)
            fits = (value is None) == (due is None) and (value is None or value.numel() == due.numel())
            expect(fits, name, value if value is None else tuple(value.shape), "None" if due is None else tuple(due.shape))
            if value is not None:
                due.data.copy_(value.detach().view(due.shape))
        _codes_changed(layer)
        return layer

    def store(self, codes: torch.Tensor) -> None:
        """Put codes (N, K) in the place of these."""
        self.codes.copy_(codes)
        _codes_changed(self)

    def zero_codes(self) -> torch.Tensor:
        """The codes (N, K) of a weight of zeros."""
        zero_point = 0 if self.zero_point is None else self.zero_point
        return torch.zeros_like(self.codes) + zero_point

    def dequantize(self) -> torch.Tensor:
        """The weight in float32 (N, K)."""
        zero_point = torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        return dequantize(self.codes, self.scale, zero_point.int())

    def quantize_input(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Codes of tokens (M, K), their scale, (M, 1) or a number, and their zero point (int32, None for 0)."""
        if self.scheme.activation == "dynamic":
            return *quantize_tokens(rows), None
        zero_point = self.input_zero_point.int()
        codes = quantize(rows, self.input_scale, zero_point, self.scheme.activation_bits, symmetric=False)
        return codes, self.input_scale, zero_point

    def integer_sums(self, codes: torch.Tensor, input_zero_point: torch.Tensor | None) -> torch.Tensor:
        """``Σ_k (q_x − z_x)(q_w − z_w)``, int32 (M, N), exact."""
        zero_point = None if self.zero_point is None else self.zero_point.view(-1).int()
        return centred_matmul(codes, input_zero_point, self.codes.t(), zero_point, self.row_sums)

    def scaled_sums(self, codes: torch.Tensor, input_zero_point: torch.Tensor | None) -> torch.Tensor:
        """:meth:`integer_sums` times the scales of the weight, float32 (M, N); by oneDNN in one step where it can."""
        scale = self.scale.view(-1)
        if self._prepacked is None and self.zero_point is None:
            packed = prepack(self.codes)
            self._prepacked = False if packed is None else packed
        if not isinstance(self._prepacked, torch.Tensor):
            return self.integer_sums(codes, input_zero_point).float().mul_(scale)
        codes, zero_point = to_int8(codes, input_zero_point)
        return prepacked_matmul(codes, 0 if zero_point is None else int(zero_point), self._prepacked, scale)

    def _outputs(self, rows: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """(M, K) → (M, N), float32."""
        codes, scale, zero_point = self.quantize_input(rows)
        sums = self.scaled_sums(codes, zero_point)
        out = torch.mul(sums, scale, out=sums if into is None else into)
        return out if self.bias is None else out.add_(self.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, N), in the dtype of ``x``."""
        if x.requires_grad and self.pass_gradients:
            return IntegerProduct.apply(x, self)
        if self.training and x.requires_grad:
            raise CourseError("Int8Linear has no weights to train; train with prepare_qat first, or call model.eval().")
        rows = x.detach().reshape(-1, self.in_features).float()  # (M, K)
        if len(rows) <= CHUNK:
            out = self._outputs(rows)
        else:
            out = rows.new_empty(len(rows), self.out_features)
            for part, into in zip(rows.split(CHUNK), out.split(CHUNK), strict=True):
                self._outputs(part, into)
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def __getstate__(self) -> dict:
        """What a copy takes along: all but oneDNN's layout, which is made again."""
        return {**self.__dict__, "_prepacked": None}

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}"


def _codes_changed(layer: Int8Linear, _keys: object = None) -> None:
    """Make again what depends on the codes and is not stored: their sums, for static inputs, and oneDNN's layout."""
    layer._prepacked = None
    if layer.row_sums is not None:
        codes, _ = to_int8(layer.codes, None)
        layer.row_sums = codes.sum(1, dtype=torch.int32)
