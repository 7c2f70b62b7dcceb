"""NanoDet-g from TensorFlow.js files: the real ones where they are, small made-up ones everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch makes the checkpoint")

from calibration.checkpoint import load_checkpoint  # noqa: E402
from streamer.common.errors import ConfigError, ModelError  # noqa: E402
from streamer.models.nanodet import build, load_into  # noqa: E402
from streamer.models.spec import ModelSpec, packaged_config  # noqa: E402
from tools.import_tfjs import import_tfjs, main  # noqa: E402

SHARED_CHECKPOINT = Path(__file__).parents[2] / "shared" / "weights" / "nanodet-g_416.pth"
TFJS_DIR = os.environ.get("NANODET_TFJS_DIR")
JsonObject = dict[str, Any]


def small_spec() -> ModelSpec:
    """NanoDet-g's architecture, narrow: 34 convolutions as well, 2 classes."""
    spec = ModelSpec.from_yaml(packaged_config("nanodet-g"))
    content = spec.model_dump(mode="json")
    content.update(name="small", labels=["a", "b"], reg_max=3)
    content["network"]["backbone"]["stem_channels"] = 4
    content["network"]["neck"]["channels"] = content["network"]["head"]["channels"] = 6
    return ModelSpec.model_validate(content)


class TfjsWriter:
    """Writes a network's weights as a TensorFlow.js graph model, its nodes named and listed at random.

    Only what decides the order of execution is in the graph: convolutions, their biases, sums and outputs.
    """

    def __init__(self, network: Any, dtype: str = "float16") -> None:
        self.nodes: list[JsonObject] = []
        self.weights: list[JsonObject] = []
        self.stored: list[bytes] = []
        self.dtype = dtype
        self.network = network
        self.random = random.Random(3)
        self.outputs: dict[str, JsonObject] = {}
        self._build()
        self.random.shuffle(self.nodes)

    def _name(self) -> str:
        return f"unknown_{self.random.getrandbits(64):x}"

    def node(self, op: str, *inputs: str) -> str:
        self.nodes.append({"name": self._name(), "op": op, "input": list(inputs), "attr": {"unread": True}})
        return str(self.nodes[-1]["name"])

    def const(self, values: np.ndarray) -> str:
        name = self.node("Const")
        weight: JsonObject = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if values.dtype.kind == "i":
            weight["dtype"] = "int32"
            self.stored.append(values.astype("<i4").tobytes())
        elif self.dtype == "float16":
            weight["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            self.stored.append(values.astype("<f2").tobytes())
        else:
            self.stored.append(values.astype("<f4").tobytes())
        self.weights.append(weight)
        return name

    def conv(self, source: str, name: str) -> str:
        conv = self.network.get_submodule(name)
        bias = conv.bias if conv.bias is not None else self.network.get_submodule(name.removesuffix("conv") + "bn").bias
        transposed = self.node("Transpose", source, self.const(np.array([0, 2, 3, 1])))
        result = self.node("Conv2D", transposed, self.const(conv.weight.detach().numpy().transpose(2, 3, 1, 0)))
        constant = self.const(bias.detach().numpy())
        operands = [f"{result}:0", constant]
        return self.node(self.random.choice(["Add", "AddV2"]), *self.random.sample(operands, 2))

    def _build(self) -> None:
        names = [
            name
            for name, layer in self.network.named_modules()
            if isinstance(layer, torch.nn.Conv2d) and "gfl_reg" not in name
        ]
        features = self.node("Placeholder")
        levels = []
        for name in names:
            if name.startswith("backbone."):
                features = self.conv(features, name)
                if name.endswith("res_out_conv.conv"):
                    levels.append(features)
        levels = [self.conv(level, f"fpn.lateral_convs.{i}.conv") for i, level in enumerate(levels[-3:])]
        for i in (1, 0):
            levels[i] = self.node("Add", levels[i], levels[i + 1])
        for i in (0, 1):
            levels[i + 1] = self.node("Add", levels[i + 1], levels[i])
        for i, level in reversed(list(enumerate(levels))):
            predicted = self.conv(self.conv(level, f"head.cls_convs.{i}.0.conv"), f"head.gfl_cls.{i}")
            for part, channels in ((0, 2), (1, 16)):
                name = self.node("Identity", f"{predicted}:{part}")
                shape = {"dim": [{"size": str(size)} for size in (1, 2704 // 4**i, channels)]}
                self.outputs[f"{name}:0"] = {"name": f"{name}:0", "dtype": "DT_FLOAT", "tensorShape": shape}

    def document(self) -> JsonObject:
        return {
            "format": "graph-model",
            "signature": {"outputs": self.outputs},
            "modelTopology": {"node": self.nodes, "library": {}},
            "weightsManifest": [{"paths": ["one.bin", "two.bin"], "weights": self.weights}],
        }

    def write(self, folder: Path, document: JsonObject | None = None) -> Path:
        content = b"".join(self.stored)
        cut = len(content) // 3
        (folder / "one.bin").write_bytes(content[:cut])
        (folder / "two.bin").write_bytes(content[cut:])
        path = folder / "model.json"
        path.write_text(json.dumps(document or self.document()), encoding="utf-8")
        return path


@pytest.fixture(name="writer")
def fixture_writer(monkeypatch: pytest.MonkeyPatch) -> TfjsWriter:
    """The small network's files; `import_tfjs` takes the small network for NanoDet-g."""
    spec = small_spec()
    monkeypatch.setattr(ModelSpec, "from_yaml", lambda path: spec)
    torch.manual_seed(5)
    network = build(spec)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.copy_((torch.randn_like(layer.weight) / layer.weight[0].numel() ** 0.5).half())
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_var.fill_(1.0 - layer.eps)
            if getattr(layer, "bias", None) is not None:
                layer.bias.copy_(torch.randn_like(layer.bias).half())
    return TfjsWriter(network)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_weight_arrives_under_its_name(writer: TfjsWriter, tmp_path: Path, dtype: str) -> None:
    path = TfjsWriter(writer.network, dtype).write(tmp_path)
    report = import_tfjs(path, tmp_path / "small.pth")
    weights, _ = load_checkpoint(report.output)
    wanted = writer.network.state_dict()
    assert list(weights) == list(wanted)
    for name, value in weights.items():
        assert value.dtype == wanted[name].dtype
        if "gfl_reg" in name:
            assert not value.any(), name
        else:
            assert torch.equal(value, wanted[name]), name
    assert report.convolutions == 34
    assert not report.published
    assert set(report.sha256) == {"model.json", "one.bin", "two.bin"}
    assert report.sha256["one.bin"] == hashlib.sha256((tmp_path / "one.bin").read_bytes()).hexdigest()


def test_batchnorm_adds_its_bias_and_nothing_else(writer: TfjsWriter, tmp_path: Path) -> None:
    import_tfjs(writer.write(tmp_path), tmp_path / "small.pth")
    network = build(small_spec())
    load_into(network, load_checkpoint(tmp_path / "small.pth")[0])
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert len(norms) == 28
    values = torch.randn(1, 1, 8, 8) * 100
    for norm in norms:
        with torch.no_grad():
            assert torch.equal(norm(values.expand(1, norm.num_features, 8, 8)), values + norm.bias.view(1, -1, 1, 1))


def test_same_files_give_same_bytes_and_no_leftovers(writer: TfjsWriter, tmp_path: Path) -> None:
    path = writer.write(tmp_path)
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"older")
        import_tfjs(path, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "b.pth", "model.json", "one.bin", "two.bin"]


def _drop_format(document: JsonObject) -> None:
    del document["format"]


def _layers_model(document: JsonObject) -> None:
    document["format"] = "layers-model"


def _no_weights(document: JsonObject) -> None:
    document["weightsManifest"] = []


def _affine_quantization(document: JsonObject) -> None:
    document["weightsManifest"][0]["weights"][0]["quantization"] = {"dtype": "uint8", "scale": 0.1, "min": -1.0}


def _unknown_dtype(document: JsonObject) -> None:
    document["weightsManifest"][0]["weights"][0]["dtype"] = "complex64"


def _negative_size(document: JsonObject) -> None:
    document["weightsManifest"][0]["weights"][0]["shape"] = [-1]


def _more_bytes(document: JsonObject) -> None:
    document["weightsManifest"][0]["weights"][1]["shape"].append(2)


def _missing_shard(document: JsonObject) -> None:
    document["weightsManifest"][0]["paths"][1] = "three.bin"


def _shard_elsewhere(document: JsonObject) -> None:
    document["weightsManifest"][0]["paths"][1] = "../two.bin"


def _shard_nowhere(document: JsonObject) -> None:
    document["weightsManifest"][0]["paths"][1] = "."


def _convolutions(document: JsonObject) -> list[JsonObject]:
    return [node for node in document["modelTopology"]["node"] if node["op"] == "Conv2D"]


def _unknown_node(document: JsonObject) -> None:
    _convolutions(document)[0]["input"][0] = "nowhere"


def _computed_kernel(document: JsonObject) -> None:
    _convolutions(document)[0]["input"].reverse()


def _no_kernel(document: JsonObject) -> None:
    _convolutions(document)[0]["input"].pop()


def _no_bias(document: JsonObject) -> None:
    conv = _convolutions(document)[0]["name"]
    for node in document["modelTopology"]["node"]:
        if f"{conv}:0" in node.get("input", []):
            node["op"] = "Mul"


def _half_an_addition(document: JsonObject) -> None:
    for node in document["modelTopology"]["node"]:
        if node["op"] in ("Add", "AddV2"):
            node["input"].pop()


def _one_convolution_fewer(document: JsonObject) -> None:
    _convolutions(document)[0]["op"] = "DepthwiseConv2dNative"


def _one_output(document: JsonObject) -> None:
    outputs = document["signature"]["outputs"]
    for name in list(outputs)[1:]:
        del outputs[name]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_drop_format, "not a TensorFlow.js graph model: format"),
        (_layers_model, "not a TensorFlow.js graph model: format"),
        (_no_weights, "not a convolution with stored weights"),
        (_affine_quantization, "quantization.dtype"),
        (_unknown_dtype, "weights.0.dtype"),
        (_negative_size, "weights.0.shape"),
        (_more_bytes, r"the weights take \d+ bytes, one.bin \+ two.bin has \d+"),
        (_missing_shard, "three.bin"),
        (_shard_elsewhere, "lies beside the JSON file"),
        (_shard_nowhere, "lies beside the JSON file"),
        (_unknown_node, "no node 'nowhere'"),
        (_computed_kernel, "not a convolution with stored weights"),
        (_no_kernel, "not a convolution with stored weights"),
        (_no_bias, "not a convolution with stored weights and a bias"),
        (_half_an_addition, "not a convolution with stored weights and a bias"),
        (_one_convolution_fewer, "it has 33 convolutions, the network 34"),
        (_one_output, r"it has \d+ convolutions, the network 34"),
    ],
)
def test_damaged_graph_is_refused(
    writer: TfjsWriter, tmp_path: Path, spoil: Callable[[JsonObject], None], says: str
) -> None:
    document = writer.document()
    spoil(document)
    output = tmp_path / "small.pth"
    with pytest.raises(ModelError, match=says) as caught:
        import_tfjs(writer.write(tmp_path, document), output)
    assert "\n" not in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize("shard", ["one.bin", "two.bin"])
@pytest.mark.parametrize("change", [-1, 1])
def test_shard_of_wrong_length_is_refused(writer: TfjsWriter, tmp_path: Path, shard: str, change: int) -> None:
    path = writer.write(tmp_path)
    content = (tmp_path / shard).read_bytes()
    (tmp_path / shard).write_bytes(content[:-1] if change < 0 else content + b"\0")
    with pytest.raises(ModelError, match="get the files again"):
        import_tfjs(path, tmp_path / "small.pth")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_not_a_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a TensorFlow[.]js graph model"):
        import_tfjs(path, tmp_path / "small.pth")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"can't read .*nanodet[.]json"):
        import_tfjs(tmp_path / "nanodet.json", tmp_path / "small.pth")


def test_another_width_is_refused(writer: TfjsWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = writer.write(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"not nanodet-g: .*taken for .*, wanted \("):
        import_tfjs(path, tmp_path / "small.pth")


@pytest.mark.parametrize("place", ["missing/small.pth", "folder", "model.json/small.pth"])
def test_unwritable_output_is_named(writer: TfjsWriter, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    path = writer.write(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=f"{place}: can't be written"):
        import_tfjs(path, tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_what_it_wrote(writer: TfjsWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = writer.write(tmp_path)
    arguments = [str(path), "-o", str(tmp_path / "small.pth")]
    assert main(arguments) == 0
    assert "34 convolutions" in (line := capsys.readouterr().out) and "not the published files" in line
    sha256 = {
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("model.json", "one.bin", "two.bin")
    }
    assert import_tfjs(path, tmp_path / "small.pth", published_sha256=sha256).published


@pytest.mark.shared
@pytest.mark.skipif(not TFJS_DIR, reason="NANODET_TFJS_DIR does not name the npm package's models folder")
@pytest.mark.skipif(not SHARED_CHECKPOINT.is_file(), reason="no ../shared/weights/nanodet-g_416.pth")
def test_published_files_give_the_known_checkpoint(tmp_path: Path) -> None:
    report = import_tfjs(Path(TFJS_DIR or "") / "nanodet.json", tmp_path / "nanodet-g_416.pth")
    got, _ = load_checkpoint(report.output)
    wanted, _ = load_checkpoint(SHARED_CHECKPOINT)
    assert report.published
    assert list(got) == list(wanted)
    # The package lacks the never-applied `gfl_reg`; the known checkpoint has random numbers there.
    differing = [name for name in wanted if not torch.equal(got[name], wanted[name])]
    assert differing == [f"head.gfl_reg.{level}.weight" for level in range(3)]


@pytest.mark.parametrize("name", ["model.json", "two.bin"])
def test_an_output_is_none_of_the_files_read(writer: TfjsWriter, tmp_path: Path, name: str) -> None:
    path = writer.write(tmp_path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="the output is the input itself"):
        import_tfjs(path, tmp_path / name)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
