"""Checkpoints in the forms that tools write: read as weights alone, or refused with what they are."""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the network is written in PyTorch")

from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.safe_pickle import SafePickle, Unread  # noqa: E402
from calibration.weights_file import read_weights  # noqa: E402
from streamer.common.errors import ModelError  # noqa: E402
from streamer.models import nanodet  # noqa: E402
from tests.test_nanodet import randomised, tiny  # noqa: E402

WEIGHTS = {name: value.clone() for name, value in randomised(tiny()).state_dict().items()}
OTHERS = {name: torch.zeros_like(value) for name, value in WEIGHTS.items()}
LEGACY = {"_use_new_zipfile_serialization": False}


class CfgNode(dict):  # type: ignore[type-arg]
    """A configuration as yacs and others save it: a dict with attributes."""

    def __init__(self, **values: object) -> None:
        super().__init__(values)
        self.frozen = True


class Slots:
    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 3


def prefixed(prefix: str, weights: dict[str, Any] = WEIGHTS) -> dict[str, Any]:
    return {prefix + name: value for name, value in weights.items()}


def arrays() -> dict[str, Any]:
    return {name: value.numpy() for name, value in WEIGHTS.items()}


def load(tmp_path: Path, content: object, name: str = "a.pth", **how: Any) -> dict[str, Any]:
    path = tmp_path / name
    torch.save(content, path, **how)
    return load_checkpoint(path)[0]


def assert_same(got: dict[str, Any]) -> None:
    network = nanodet.build(tiny())
    nanodet.load_into(network, got)
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.2),
        np.arange(4.0),
        np.array([{}, None], object),
        argparse.Namespace(lr=0.1, path=Path("a")),
        CfgNode(lr=0.1, inner=CfgNode(depth=3)),
        OrderedDict(a=CfgNode()),
        defaultdict(list, a=[CfgNode()]),
        {CfgNode: 1},
        Slots(),
        {1, 2, frozenset("ab")},
        types.SimpleNamespace(a=b"bytes"),
        complex(1, 2),
        torch.device("cuda:1"),
        torch.Size((1, 2)),
        torch.float16,
        torch.nn.Parameter(torch.ones(2)),
        torch.sparse_coo,
        range(3),
        slice(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_stands_beside_the_weights_is_passed_over(tmp_path: Path, beside: object, how: dict[str, Any]) -> None:
    assert_same(load(tmp_path, {"state_dict": WEIGHTS, "beside": beside, "list": [beside]}, **how))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    content = {"state_dict": WEIGHTS, "args": CfgNode(a=Slots())}
    assert_same(load(tmp_path, content, pickle_protocol=protocol))
    assert_same(load(tmp_path, content, pickle_protocol=protocol, **LEGACY))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "model.module.",
        "module.model.",
        "_orig_mod.",
        "model._orig_mod.",
        "_orig_mod.module.model.",
        "avg_model.module.",
        "ema_model._orig_mod.",
        "net.",
    ],
)
def test_prefixes_are_taken_off_in_any_order(tmp_path: Path, prefix: str) -> None:
    assert_same(load(tmp_path, {"state_dict": prefixed(prefix)}))


def test_a_prefix_in_the_middle_is_taken_off(tmp_path: Path) -> None:
    inner = {name.replace("backbone.", "backbone._orig_mod."): value for name, value in WEIGHTS.items()}
    assert_same(load(tmp_path, inner))


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(1)}}}},
        {"net": WEIGHTS},
        {"params": WEIGHTS},
        {"model": {"state_dict": WEIGHTS}},
        {"ema": {"module": WEIGHTS, "updates": 3}, "model": OTHERS},
        {"params_ema": WEIGHTS, "params": OTHERS},
        {"state_dict": OTHERS, "ema_state_dict": WEIGHTS},
        {"state_dict": {**prefixed("model.", OTHERS), **prefixed("avg_model.module."), "avg_model.n": torch.ones(1)}},
        {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(80), "teacher.x": torch.ones(1)}},
        {**WEIGHTS, "epoch": 3, "arch": "nanodet"},
        {"ema": None, "model": WEIGHTS},
        {"ema": {"decay": 0.9}, "state_dict": WEIGHTS},
        {"state_dict": {name: torch.nn.Parameter(value, requires_grad=False) for name, value in WEIGHTS.items()}},
        {"state_dict": arrays()},
        OrderedDict(arrays()),
    ],
    ids=lambda content: "+".join(list(content)[:2]),
)
def test_weights_are_found_under_any_usual_name(tmp_path: Path, content: dict[str, Any]) -> None:
    got = load(tmp_path, content)
    assert_same({name: value for name, value in got.items() if name in WEIGHTS})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    got = load(tmp_path, {name: v.to(dtype) if v.is_floating_point() else v for name, v in WEIGHTS.items()})
    network = nanodet.build(tiny())
    nanodet.load_into(network, got)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, WEIGHTS[name], rtol=1e-2, atol=1e-2)


def test_numpy_files_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    assert_same(load_checkpoint(tmp_path / "a.npz")[0])
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays(), "author": "x"}, protocol=protocol))
        assert_same(load_checkpoint(tmp_path / "a.pkl")[0])
    odd = {name: np.array(value, value.dtype.newbyteorder(">"), order="F") for name, value in arrays().items()}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(odd))
    assert_same(load_checkpoint(tmp_path / "b.pkl")[0])


def test_safetensors_are_read(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file
    save({name: value.contiguous() for name, value in prefixed("model.").items()}, tmp_path / "a.safetensors")
    assert_same(load_checkpoint(tmp_path / "a.safetensors")[0])
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "renamed.pth").write_bytes(content)
    assert_same(load_checkpoint(tmp_path / "renamed.pth")[0])
    (tmp_path / "a.safetensors").write_bytes(content[:-10])
    with pytest.raises(ModelError, match="damaged .safetensors"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_missing_safetensors_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    header = b'{"x":{}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="pip install safetensors"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "its 'model' is an object, which is not read for safety"),
        (torch.nn.Linear(1, 1), "it is a pickled object, which is not read for safety"),
        ({"x": torch.ones(2, device="meta")}, "x has no values"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "x is torch.complex64"),
        ({"state_dict": {"x": np.array([None])}}, "no weights"),
    ],
)
def test_what_cant_be_weights_is_said(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(tmp_path, content)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_programs_are_named_for_what_they_are(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * x

    torch.jit.save(torch.jit.trace(Twice(), torch.ones(1)), tmp_path / "a.pth")
    with pytest.raises(ModelError, match="a TorchScript file"):
        load_checkpoint(tmp_path / "a.pth")
    torch.export.save(torch.export.export(Twice(), (torch.ones(1),)), tmp_path / "a.pt2")
    with pytest.raises(ModelError, match=r"torch\.export"):
        load_checkpoint(tmp_path / "a.pt2")
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(ModelError, match="an ONNX file is a model already"):
        load_checkpoint(tmp_path / "a.onnx")


class TestNothingIsRun:
    def test_no_module_is_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "planted_module.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(str(tmp_path))
        raw = b"\x80\x02cplanted_module\nThing\n)R}q\x00X\x01\x00\x00\x00aK\x01sb."
        assert isinstance(SafePickle.loads(raw), Unread)
        assert "planted_module" not in sys.modules

    def test_functions_that_a_pickle_may_call_cant_be_changed(self) -> None:
        before = dict(vars(torch._utils._rebuild_tensor_v2))
        # BUILD with a state and a slot state on the function itself.
        state = b"}X\x04\x00\x00\x00evilK\x01s"
        raw = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + state + b"\x86b."
        SafePickle.loads(raw)
        assert vars(torch._utils._rebuild_tensor_v2) == before
        assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")

    def test_an_unread_object_takes_everything_and_keeps_nothing(self) -> None:
        for value in (Slots(), CfgNode(a=1), [CfgNode()], argparse.Namespace(a=1), range(3)):
            got = SafePickle.loads(pickle.dumps(value))
            assert isinstance(got[0] if isinstance(got, list) else got, Unread)
        assert not hasattr(Unread(), "__dict__")


@functools.cache  # what PyTorch writes differs from one time to the next
def _valid_files() -> list[bytes]:
    files = []
    for how in ({}, LEGACY):
        stream = io.BytesIO()
        torch.save({"state_dict": {"a": torch.ones(3)}, "args": argparse.Namespace(a=np.float32(1))}, stream, **how)
        files.append(stream.getvalue())
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return [*files, stream.getvalue(), pickle.dumps({"a": np.ones(3)})]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_and_never_break_the_reader(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_valid_files())))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        weights = read_weights(bytes(content[:cut] if data.draw(st.booleans()) else content), Path("a.pth"))
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(value, torch.Tensor) for value in weights.values())
