"""Initial weights from every kind of file, the head's rows by class name, and checkpoints written and read again."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import Tensor  # noqa: E402

from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.export import export  # noqa: E402
from calibration.pictures import network_input, split  # noqa: E402
from calibration.training.batchnorm import is_folded, restore_batchnorm  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint, write_checkpoint  # noqa: E402
from calibration.training.initial_weights import initialise, read_source  # noqa: E402
from calibration.training.network import PRIOR_BIAS, TrainingNetwork  # noqa: E402
from calibration.training.preparation import find_source  # noqa: E402
from streamer.common.errors import ConfigError, ModelError  # noqa: E402
from streamer.models.nanodet import fuse_batchnorm  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402
from streamer.models.zoo import resolve_model  # noqa: E402
from tests.test_nanodet import FAMILIES, OFFICIAL, randomised, saved, tiny  # noqa: E402
from tests.test_training_network import images, outputs, relative_difference  # noqa: E402

each_family = pytest.mark.parametrize("name", FAMILIES)
COCO = spec_for("nanodet-m_320").labels


def trained(spec: ModelSpec) -> TrainingNetwork:
    """A network whose every weight differs from a new one's."""
    network = TrainingNetwork(spec)
    network.network.load_state_dict(randomised(spec).state_dict())
    return network


def official(path: Path, network: TrainingNetwork) -> Path:
    """Saves a checkpoint as upstream's trainer does."""
    return saved(path, {"state_dict": {f"model.{key}": value for key, value in network.official_state().items()}})


def rows(network: TrainingNetwork) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of the first level's prediction layer."""
    state = network.official_state()
    return state["head.gfl_cls.0.weight"], state["head.gfl_cls.0.bias"]


@each_family
def test_an_official_checkpoint_of_the_same_classes_is_kept_whole(name: str, tmp_path: Path) -> None:
    spec = tiny(name, labels=COCO)
    source, network = trained(spec), TrainingNetwork(spec)
    said = initialise(network, read_source(official(tmp_path / "official.ckpt", source)), COCO)
    for key, value in source.official_state().items():
        assert torch.equal(network.official_state()[key], value), key
    assert "a checkpoint" in said[0] and "all 80 classes are kept" in said[1]
    assert ("the auxiliary head's weights are kept" in said) == ("plus" in name)
    assert not network.has_new_auxiliary


@each_family
def test_rows_are_kept_where_class_names_match(name: str, tmp_path: Path) -> None:
    source = trained(tiny(name, labels=COCO))
    names = ("gear", "Dog", "person")
    network = TrainingNetwork(tiny(name, labels=names))
    said = initialise(network, read_source(official(tmp_path / "official.ckpt", source)), names)
    (weight, bias), (old_weight, old_bias) = rows(network), rows(source)
    for row, old in ((1, COCO.index("dog")), (2, COCO.index("person"))):
        assert torch.equal(weight[row], old_weight[old]) and bias[row] == old_bias[old]
    assert bias[0].item() == pytest.approx(PRIOR_BIAS) and 0.001 < weight[0].std().item() < 0.05
    assert torch.equal(weight[3:], old_weight[80:]) and torch.equal(bias[3:], old_bias[80:])
    assert "kept for Dog, person, and new for gear" in said[1]
    if network.auxiliary is not None:
        own, given = network.official_state(), source.official_state()
        kept = given["aux_head.gfl_cls.weight"][COCO.index("dog")]
        assert torch.equal(own["aux_head.gfl_cls.weight"][1], kept)
        assert own["aux_head.gfl_cls.bias"][0].item() == pytest.approx(PRIOR_BIAS)
        assert torch.equal(own["aux_fpn.reduce_layers.0.conv.weight"], given["aux_fpn.reduce_layers.0.conv.weight"])


def test_without_matching_names_all_rows_of_classes_are_new_and_said(tmp_path: Path) -> None:
    source, names = trained(tiny(labels=COCO)), ("RBC", "WBC", "Platelets")
    network = TrainingNetwork(tiny(labels=names))
    said = initialise(network, read_source(official(tmp_path / "official.ckpt", source)), names)
    assert "new for all 3 classes (RBC, WBC, Platelets), each at probability 0.01" in said[1]
    assert rows(network)[1][:3].tolist() == pytest.approx([PRIOR_BIAS] * 3)
    assert torch.equal(rows(network)[0][3:], rows(source)[0][80:])


def test_rows_without_names_are_taken_in_order_where_their_number_fits(tmp_path: Path) -> None:
    source = trained(tiny(labels=("a", "b")))
    file = official(tmp_path / "foreign.ckpt", source)
    same, other = TrainingNetwork(tiny(labels=("bolt", "nut"))), TrainingNetwork(tiny(labels=("bolt", "nut", "gear")))
    assert "taken to be yours" in initialise(same, read_source(file), ("bolt", "nut"))[1]
    assert torch.equal(rows(same)[0], rows(source)[0])
    assert "none is kept" in initialise(other, read_source(file), ("bolt", "nut", "gear"))[1]
    assert rows(other)[1][:3].tolist() == pytest.approx([PRIOR_BIAS] * 3)


def test_another_number_of_bins_makes_the_box_rows_new(tmp_path: Path) -> None:
    source = trained(tiny(labels=COCO))
    network = TrainingNetwork(tiny(labels=COCO, reg_max=9))
    said = initialise(network, read_source(official(tmp_path / "official.ckpt", source)), COCO)
    assert "the head's box rows are new: 8 bins a side there, 10 here" in said
    assert torch.equal(rows(network)[0][:80], rows(source)[0][:80])


@each_family
def test_an_exported_model_is_a_beginning(name: str, tmp_path: Path) -> None:
    spec = tiny(name, labels=("gear", "person"))
    source = trained(spec)
    model = tmp_path / "exported.onnx"
    export(spec, official(tmp_path / "source.ckpt", source), model)
    network = TrainingNetwork(spec)
    said = initialise(network, read_source(model), ("gear", "person"))
    assert "an exported model" in said[0] and "normalisation is folded" in said[-1]
    assert is_folded(network.network)
    assert relative_difference(outputs(network.eval(), images()), outputs(source.eval(), images())) < 1e-4
    assert network.has_new_auxiliary == ("plus" in name)
    if network.auxiliary is not None:
        for key, value in network.network.fpn.state_dict().items():
            assert torch.equal(network.auxiliary.aux_fpn.state_dict()[key], value)


def test_the_packaged_model_is_a_beginning_for_g() -> None:
    names = ("person", "forklift")
    spec = spec_for("nanodet-g_416").model_copy(update={"labels": names})
    network = TrainingNetwork(spec)
    said = initialise(network, find_source(spec, "auto"), names)
    assert said[0] == "nanodet-g begins with the weights of the packaged nanodet-g_416_float (an exported model)"
    assert "kept for person, and new for forklift" in said[1] and is_folded(network.network)


def test_an_int8_file_is_refused() -> None:
    path, _ = resolve_model("nanodet-g_416")
    with pytest.raises(ModelError, match=r"nanodet-g_416.onnx: an INT8 file; give the float model"):
        initialise(TrainingNetwork(spec_for("nanodet-g_416")), read_source(path), COCO)


@pytest.mark.parametrize(("wanted", "given"), [("nanodet-g_64", "nanodet-m_64"), ("nanodet-plus-m_64", "nanodet-m_64")])
def test_a_checkpoint_of_another_network_is_refused_in_one_line(wanted: str, given: str, tmp_path: Path) -> None:
    network = TrainingNetwork(tiny(wanted))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        initialise(network, read_source(official(tmp_path / "other.ckpt", trained(tiny(given)))), ("gear",))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'other.ckpt'}: ") and "another network" in message and "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_no_file_keeps_random_weights_and_says_so() -> None:
    network = TrainingNetwork(tiny())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert initialise(network, None, ("gear",)) == ("nanodet-m begins with random weights",)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@each_family
@pytest.mark.parametrize("is_averaged", [False, True])
def test_a_written_checkpoint_is_read_again(name: str, is_averaged: bool, tmp_path: Path) -> None:
    spec = tiny(name, labels=("gear", "nut"))
    network, averaged = trained(spec), {key: value + 1 for key, value in trained(spec).state_dict().items()}
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, network, averaged if is_averaged else None, {"epoch": 3, "seeds": (1, 2)})
    wanted = network.official_state(averaged if is_averaged else None)
    weights, _ = load_checkpoint(path)
    assert weights.keys() == {key for key in wanted if not key.startswith("aux_")}
    assert all(torch.equal(weights[key], wanted[key]) for key in weights)
    assert load_checkpoint(path, with_auxiliary=True)[0].keys() == wanted.keys()
    content = read_checkpoint(path)
    assert (content["epoch"], content["seeds"], content["names"]) == (3, (1, 2), ["gear", "nut"])
    again = TrainingNetwork(spec)
    said = initialise(again, read_source(path), ("gear", "nut"))
    assert "a checkpoint of this program" in said[0] and "all 2 classes are kept" in said[1]
    project = "head.distribution_project.project"
    assert all(torch.equal(value, wanted[key]) for key, value in again.official_state().items() if key != project)


def load_as_upstream(network: TrainingNetwork, state: dict[str, Any]) -> dict[str, Any]:
    """Upstream's rules for names, written anew: averaged weights win, and the first name tells the prefix of all."""
    renamed = {key: value for key, value in state.items() if not key.startswith("avg_model.")}
    renamed |= {key.removeprefix("avg_"): value for key, value in state.items() if key.startswith("avg_model.")}
    assert next(iter(renamed)).startswith("model.")
    own = {key.removeprefix("model."): value for key, value in renamed.items()}
    network.network.load_state_dict({key: value for key, value in own.items() if not key.startswith("aux_")})
    return own


@pytest.mark.shared
@pytest.mark.parametrize("name", OFFICIAL)
def test_upstreams_loader_finds_every_name(shared: Path, name: str, tmp_path: Path) -> None:
    keys = json.loads((shared / "goldens" / f"{name}.keys.json").read_text())
    spec = spec_for(f"{name}_320")
    network = TrainingNetwork(spec)
    averaged = {key: value * 2 for key, value in network.state_dict().items()}
    write_checkpoint(tmp_path / "best.ckpt", network, averaged)
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert {"pytorch-lightning_version", "epoch", "global_step"} <= content.keys()
    loaded = load_as_upstream(TrainingNetwork(spec), content["state_dict"])
    assert {key: list(value.shape) for key, value in loaded.items() if not key.startswith("aux_")} == keys
    assert torch.equal(loaded["head.gfl_cls.0.weight"], averaged["network.head.gfl_cls.0.weight"])


@each_family
def test_a_written_checkpoint_exports(name: str, tmp_path: Path) -> None:
    spec = tiny(name, labels=("gear", "nut"))
    network = trained(spec)
    write_checkpoint(tmp_path / "best.ckpt", network, network.state_dict())
    report = export(spec, tmp_path / "best.ckpt", tmp_path / "best.onnx")
    assert report.relative_error < 1e-4 and report.path.is_file()


def no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = tmp_path / "last.ckpt", TrainingNetwork(tiny())
    write_checkpoint(path, network, None, {"epoch": 1})
    write: Callable[..., int] = no_space
    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(ConfigError, match=r"last.ckpt: can't be written: No space left on device"):
        write_checkpoint(path, network, None, {"epoch": 2})
    assert read_checkpoint(path)["epoch"] == 1 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"nonsense"])
def test_a_damaged_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"last.ckpt: not a checkpoint of this program, or cut short"):
        read_checkpoint(path)
    with pytest.raises(ModelError, match=r"last.ckpt: "):
        initialise(TrainingNetwork(tiny()), read_source(path), ("gear",))


def test_another_programs_checkpoint_cant_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has no 'names'"):
        read_checkpoint(official(tmp_path / "official.ckpt", trained(tiny())))
    with pytest.raises(ModelError, match="can't read the checkpoint: No such file"):
        read_checkpoint(tmp_path / "missing.ckpt")


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nanodet-m_320"])
def test_real_weights_train_on_after_their_normalisation_is_restored(shared: Path, name: str) -> None:
    spec = spec_for(name)
    network = TrainingNetwork(spec)
    initialise(network, read_source(shared / "weights" / f"{name}.pth"), COCO)
    pictures = split(spec, shared / "coco" / "calib" / "images").gate[:16]
    batch = torch.cat([torch.from_numpy(network_input(picture, spec)) for picture in pictures])
    wanted = outputs(network.eval(), batch)
    restore_batchnorm(network, batch)
    assert relative_difference(outputs(network.eval(), batch), wanted) < 1e-4
    assert relative_difference(outputs(network.train(), batch), wanted) < 1e-2
    fuse_batchnorm(network.network)
    assert relative_difference(network.network.eval()(batch).detach(), wanted) < 1e-3
