"""Reads pickled checkpoints without executing code from them.

`torch.load(weights_only=True)` refuses a file for any other object, such as a configuration or a subclass of dict.
`SafeUnpickler` reads tensors and NumPy arrays and replaces every other class or function by an `Unread`.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_PLAIN_DTYPE = re.compile(r"(?:[fiu][1248]|b1)\Z")


class Unread:
    """Placeholder of an object that isn't read; ignores arguments, items and state."""

    __slots__ = ()

    def __new__(cls, *arguments: object, **named: object) -> Unread:
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...

    def __call__(self, *arguments: object, **named: object) -> Unread:
        return self


class StoredArray:
    """A pickled NumPy array, decoded without NumPy's own reconstructors.

    Attributes:
        array: its values, or None where they aren't plain numbers.
    """

    def __init__(self, *_: object) -> None:
        self.array: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if isinstance(dtype, _StoredDtype) and dtype.dtype is not None and isinstance(raw, bytes):
            self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")  # type: ignore[arg-type,call-overload]

    @classmethod
    def from_buffer(cls, buffer: object, dtype: object, shape: Any, order: Any) -> StoredArray:
        """Returns an array as pickle protocol 5 keeps it."""
        stored = cls()
        stored.__setstate__((1, shape, dtype, order == "F", bytes(buffer) if isinstance(buffer, bytearray) else buffer))
        return stored


class _StoredDtype:
    """A pickled NumPy dtype; `dtype` is None where it isn't one of plain numbers."""

    def __init__(self, code: object = None, *_: object) -> None:
        self._code = code
        self.dtype = self._with_order("=")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self._with_order(state[1])

    def _with_order(self, order: object) -> np.dtype[Any] | None:
        if not isinstance(self._code, str) or not _PLAIN_DTYPE.match(self._code) or order not in ("<", ">", "=", "|"):
            return None
        return np.dtype(f"{order}{self._code}")


class _Allowed:
    """A function that a pickle may call but not modify."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None: ...


def _encode(text: str, encoding: str = "") -> object:
    """What pickles of protocol 2 keep bytes with."""
    return text.encode("latin-1") if encoding in ("latin1", "latin-1") else Unread()


def _first(value: object, *_: object) -> object:
    return value


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch._utils._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_qtensor"): torch._utils._rebuild_qtensor,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): torch._utils._rebuild_meta_tensor_no_storage,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda function, kind, arguments, state: function(*arguments),
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch", "device"): lambda *names: ":".join(map(str, names)),
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("_codecs", "encode"): _encode,
}
_FUNCTIONS.update(
    {
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", StoredArray),
            ("numeric", "_frombuffer", StoredArray.from_buffer),
        )
    }
)
_FUNCTIONS["numpy", "dtype"] = _StoredDtype


class SafeUnpickler(pickle.Unpickler):
    """Unpickles numbers, texts, containers, tensors and NumPy arrays; any other object becomes an `Unread`."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of ``module.name``."""
        function = _FUNCTIONS.get((module, name))
        if function is not None:
            return _Allowed(function)
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype | torch.qscheme):
            return value
        return Unread


class SafePickle:
    """The `pickle_module` for `torch.load`."""

    Unpickler = SafeUnpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """Reads the next object of a file."""
        return SafeUnpickler(file, **options).load()

    @staticmethod
    def loads(content: bytes, **options: Any) -> Any:
        """Reads an object from memory."""
        return SafePickle.load(io.BytesIO(content), **options)
