"""The kernels' parameters, field by field as in source/convolution.cu and source/between.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_ADDRESS, _INT, _FLOAT, _WORD = np.uint64, np.int32, np.float32, np.uint32
_DIVISOR = np.dtype([("factor", _WORD), ("shift", _WORD)])


def divisor(number: int) -> npt.NDArray[np.void]:
    """Returns `struct Divisor` of source/warp.cuh, for values below 2^31.

    From Granlund and Montgomery, "Division by Invariant Integers using Multiplication" (PLDI 1994), section 4.
    """
    shift = (number - 1).bit_length()
    found = np.zeros((), _DIVISOR)
    found["factor"], found["shift"] = (((1 << shift) - number) << 32) // number + 1, shift
    return found


def _struct(fields: str, **types: Any) -> np.dtype[np.void]:
    """Returns a C struct's type; a field's type is given by its name, else int."""
    return np.dtype([(name, types.get(name, _INT)) for name in fields.split()], align=True)


EPILOGUE = np.dtype([("slope", _FLOAT), ("low", _FLOAT), ("high", _FLOAT), ("zero_point", _INT)], align=True)
"""`struct Epilogue` of source/warp.cuh."""

_FLOATS = dict.fromkeys(("scale", "rounded_scale", "rounded_steps"), _FLOAT)
_ADDRESSES = dict.fromkeys(
    ("input", "weights", "factors", "offsets", "output", "partner", "address", "rows_at", "columns_at"), _ADDRESS
)
_DIVISORS = {
    f"by_{name}": _DIVISOR
    for name in ["area", "width", "height", "units", "kernel_width", "parts", "count", "blocks", "quads", "patch_width"]
}
_NESTED = {**_FLOATS, **_ADDRESSES, **_DIVISORS, "epilogue": EPILOGUE, "fill": _WORD}

CONVOLUTION = _struct(
    "input weights factors offsets output partner image_stride"
    " input_height input_width input_pitch output_height output_width output_pitch rows columns pitch steps"
    " kernel_height kernel_width stride pad_top pad_left units partner_pitch half gap sigmoids is_wide"
    " blocks patch_width patch_bytes fill epilogue by_area by_width by_units by_kernel_width by_blocks by_patch_width",
    **_NESTED, image_stride=np.int64,
)  # fmt: skip
"""`struct Convolution` of source/convolution.cu."""

WINDOW = _struct(
    "input weights factors offsets output input_height input_width input_pitch output_height output_width output_pitch"
    " pixels channels kernel_height kernel_width stride pad_top pad_left input_form form fill"
    " epilogue by_parts by_width by_height",
    **_NESTED,
)
"""`struct Window` of source/between.cu."""

OPERAND = _struct(
    "address rows_at columns_at weights form pitch height width has_quarters scale zero_point"
    " rounded_scale rounded_steps rounded_zero_point",
    **_NESTED,
)
"""`struct Operand` of source/between.cu."""

COMBINATION = np.dtype(
    [
        ("operands", OPERAND, 2),
        ("output", _ADDRESS),
        *((name, _INT) for name in ["count", "height", "width", "pitch", "pixels", "channels", "form"]),
        ("steps", _FLOAT),
        ("epilogue", EPILOGUE),
        *((name, _DIVISOR) for name in ("by_parts", "by_width", "by_height")),
    ],
    align=True,
)
"""`struct Combination` of source/between.cu."""

COPY = _struct(
    "input output channels count pixels input_pitch output_pitch size by_count",
    **_NESTED | {"channels": _ADDRESS},
)
"""`struct Copy` of source/between.cu."""

STEM = _struct(
    "input weights factors offsets output input_height input_width middle_height middle_width output_height"
    " output_width output_pitch kernel_height kernel_width stride pad_top pad_left blocks_down words tile_pitch"
    " tile_height fill epilogue by_quads by_kernel_width",
    **_NESTED,
)
"""`struct Stem` of source/stem.cu."""

INT8, FLOAT16, INT8_SHUFFLED, FLOAT16_SHUFFLED, NETWORK_OUTPUT = range(5)
"""`enum Form` of both files."""
