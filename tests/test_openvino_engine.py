"""The precision in which a model is computed on this processor."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino")

from streamer.common.errors import ConfigError
from streamer.common.openvino_core import shared_core
from streamer.engines import open_engine
from streamer.models.file import ModelFile, load_model

FLOAT = Path(__file__).parent.parent / "streamer" / "data" / "nanodet-g_416_float.onnx"


def processor_flags() -> set[str]:
    """Returns the processor's features as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        pytest.skip("only Linux lists the processor's features")
    words = next((line.partition(":")[2] for line in lines if line.startswith("flags")), None)
    if words is None:
        pytest.skip("only x86 has these names")
    return set(words.split())


@pytest.fixture(scope="module")
def float_model() -> ModelFile:
    return load_model(FLOAT)


def precision_of(model: ModelFile, precision: str, slots: int = 1) -> str:
    engine = open_engine("openvino", model, slots=slots, precision=precision)
    engine.close()
    return engine.precision


@pytest.mark.parametrize("slots", [1, 4])
def test_a_float_model_is_computed_in_bf16_only_with_amx(float_model: ModelFile, slots: int) -> None:
    assert precision_of(float_model, "auto", slots) == ("bf16" if "amx_bf16" in processor_flags() else "f32")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_requested_precision_is_used(float_model: ModelFile, precision: str) -> None:
    if precision == "bf16" and "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ConfigError, match="this processor doesn't compute in bf16"):
            precision_of(float_model, precision)
    else:
        assert precision_of(float_model, precision) == precision


@pytest.mark.parametrize(
    ("name", "flags", "precision"),
    [
        ("nanodet-g_416", {"avx2"}, "int8"),
        ("nanodet-g_416_float", {"avx2"}, None),
        ("nanodet-g_416_float", {"avx512f", "avx512_bf16"}, "f32"),
    ],
)
def test_only_the_form_that_is_used_is_compiled(
    name: str, flags: set[str], precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the processor's flags tell that AMX isn't there, no second form is compiled to find that out."""
    import openvino as ov

    compiled = []
    compile_model = ov.Core.compile_model

    def counted(core: ov.Core, *arguments: object) -> ov.CompiledModel:
        compiled.append(arguments[-1])
        return compile_model(core, *arguments)

    if precision is None and "amx_bf16" not in processor_flags() and "avx512_bf16" in processor_flags():
        pytest.skip("this processor computes in bf16 without AMX, whatever its flags are said to be")
    monkeypatch.setattr(ov.Core, "compile_model", counted)
    monkeypatch.setattr("streamer.engines.openvino_engine.processor_flags", lambda: frozenset(flags))
    engine = open_engine("openvino", load_model(FLOAT.with_name(f"{name}.onnx")), slots=1)
    engine.close()
    assert len(compiled) == 1
    assert precision in (None, engine.precision)
