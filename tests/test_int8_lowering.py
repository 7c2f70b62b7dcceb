"""What the int8 engine makes of a graph: refusals, views that copy nothing, and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from streamer.common.errors import UnavailableError
from streamer.engines.int8.lowering import lower
from streamer.engines.int8.network import Combination, Copy, Stem, UnsupportedGraph
from streamer.engines.int8.packing import pack
from streamer.engines.int8.parameters import divisor
from streamer.engines.int8.program import Memory, ProgramBuilder
from streamer.engines.int8.schedule import schedule
from streamer.models.file import load_model
from streamer.models.zoo import resolve_model
from tests.int8_host import HostProgram
from tests.qdq_graphs import BINS, CLASSES, QdqGraph, pictures, run_whole

SIZE_WH = (44, 36)


def ints(graph: QdqGraph, *values: int) -> list[str]:
    """Adds a constant of one integer for each value."""
    return [graph.constant(np.array([value], np.int64)) for value in values]


def resized(graph: QdqGraph, tensor: str, **options: object) -> str:
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    return graph.node("Resize", [tensor, "", scales], mode="linear", **options)


def dequantised_otherwise(graph: QdqGraph, tensor: str) -> str:
    scale, zero, other = (graph.constant(value) for value in (np.float32(0.03), np.int8(0), np.int8(3)))
    return graph.node("DequantizeLinear", [graph.node("QuantizeLinear", [tensor, scale, zero]), scale, other])


REFUSED: dict[str, tuple[Callable[[QdqGraph, str], str], str]] = {
    "rows backwards": (
        lambda g, t: g.node("Slice", [t, *ints(g, -1, -(1 << 62), 2, -1)]),
        "Slice 'NAME' of pictures, rows or columns",
    ),
    "one picture": (lambda g, t: g.node("Slice", [t, *ints(g, 0, 1, 0)]), "Slice 'NAME' of pictures, rows or columns"),
    "rows": (lambda g, t: g.node("Slice", [t, *ints(g, 0, 5, 2)]), "Slice 'NAME' of pictures, rows or columns"),
    "another zero point": (dequantised_otherwise, "DequantizeLinear 'NAME': its zero point differs from"),
    "auto_pad": (
        lambda g, t: g.node("MaxPool", [t], kernel_shape=[2, 2], auto_pad="SAME_UPPER"), "MaxPool 'NAME' of this form"
    ),
    "ceil_mode": (
        lambda g, t: g.node("MaxPool", [t], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        "MaxPool 'NAME' of this form",
    ),
    "cubic": (lambda g, t: g.node("Resize", [t, "", g.constant(np.array([1, 1, 2, 2], np.float32))], mode="cubic"),
              "Resize 'NAME' of this form"),
    "symmetric": (lambda g, t: resized(g, t, coordinate_transformation_mode="tf_crop_and_resize"), "Resize 'NAME' of"),
    "a constant": (
        lambda g, t: g.node("Add", [t, g.constant(np.ones((1, 16, 18, 22), np.float32))]), "Add 'NAME' of 'c"
    ),
    "broadcast": (lambda g, t: g.node("Add", [t, g.constant(np.float32(1))]), "Add 'NAME' of different shapes"),
    "joined rows": (lambda g, t: g.node("Concat", [t, t], axis=2), "Concat 'NAME' of rows or columns"),
    "split rows": (lambda g, t: g.node("Split", [t, *ints(g, 22)], axis=-1), "Split 'NAME' of rows or columns"),
    "unknown": (lambda g, t: g.node("HardSwish", [t]), "HardSwish 'NAME'"),
    "a slope": (lambda g, t: g.node("LeakyRelu", [t], alpha=1.5), "LeakyRelu 'NAME' with a slope of 1.5"),
    "a dilation": (
        lambda g, t: g.node("MaxPool", [t], kernel_shape=[2, 2], dilations=[2, 2]), "MaxPool 'NAME' of this form"
    ),
    "two strides": (
        lambda g, t: g.node("MaxPool", [t], kernel_shape=[2, 2], strides=[1, 2]), "MaxPool 'NAME' of this form"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_computed_exactly_is_refused_in_one_line(what: str) -> None:
    make, message = REFUSED[what]
    graph = QdqGraph(SIZE_WH)
    name = make(graph, graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2))
    model = graph.unfinished(name, 16)
    with pytest.raises(UnsupportedGraph) as caught:
        lower(model)
    text = str(caught.value)
    assert text.startswith("network.onnx: the int8 engine doesn't compute ")
    assert message.replace("NAME", name) in text
    assert "\n" not in text


def test_a_sigmoid_of_a_sigmoid_is_refused() -> None:
    graph = QdqGraph(SIZE_WH)
    graph.output(graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2), 16)
    model = graph.model()
    last = model.proto.graph.node[-1]
    model.proto.graph.node.insert(len(model.proto.graph.node) - 1, helper.make_node("Sigmoid", [last.input[0]], ["z"]))
    last.input[0] = "z"
    with pytest.raises(UnsupportedGraph, match="Sigmoid of a Sigmoid"):
        lower(model)


@pytest.mark.parametrize("kind", ["Softmax", "Cast", "Max"])
def test_an_output_that_is_computed_further_is_refused(kind: str) -> None:
    """As `streamer.models.graph.outputs` writes it for foreign files whose output isn't logits."""
    graph = QdqGraph(SIZE_WH)
    graph.output(graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2), 16)
    model = graph.model()
    last = model.proto.graph.node[-1]
    options = {"Softmax": {"axis": 2}, "Cast": {"to": 1}, "Max": {}}[kind]
    made = helper.make_node(kind, [last.input[1]], ["z"], **options)
    model.proto.graph.node.insert(len(model.proto.graph.node) - 1, made)
    last.input[1] = "z"
    with pytest.raises(UnsupportedGraph, match=f"network.onnx: the int8 engine doesn't compute {kind} of"):
        lower(model)


def test_a_resize_of_an_early_opset_has_upsample_coordinates(kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH, opset=10)
    tensor = graph.convolution("images", 3, 16, stride=2, scale=0, quantised=False)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    tensor = graph.node("Resize", [tensor, scales], mode="linear")
    graph.output(tensor, 16)
    model = graph.model()
    images = pictures(1, SIZE_WH)
    found = HostProgram(model, kernel_folder).run(images)
    expected = run_whole(model.proto, images, ["output"])["output"]
    assert np.abs(found - expected)[..., :CLASSES].max() < 0.002
    assert np.abs(found - expected)[..., CLASSES:].max() < 0.02


def test_channels_in_another_order_are_no_stem(kernel_folder: Path) -> None:
    """A graph that takes RGB: the input's channels backwards, then convolution and pooling."""
    graph = QdqGraph(SIZE_WH)
    tensor = graph.convolution(graph.reversed(graph.pair("images", 0.02)), 3, 24, stride=2)
    tensor = graph.node("MaxPool", [tensor], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    graph.output(tensor, 24)
    model, images = graph.model(), pictures(1, SIZE_WH)
    program = HostProgram(model, kernel_folder)
    assert not any(isinstance(step.node, Stem) for step in program.schedule.steps)
    found, expected = program.run(images), run_whole(model.proto, images, ["output"])["output"]
    assert np.abs(found - expected).max() < 0.1


def test_the_packaged_network_needs_no_copies() -> None:
    made = schedule(lower(load_model(resolve_model("nanodet-g_416")[0])))
    kinds = [type(step.node) for step in made.steps]
    assert Copy not in kinds
    assert kinds.count(Stem) == 1
    assert len(kinds) == 38


def test_scores_behind_bins_alone_go_through_the_sigmoid(kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH)
    graph.output(graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2), 16)
    model, images = graph.model(scores_first=False), pictures(1, SIZE_WH)
    parts = {(part.column, part.node.channels, part.sigmoids) for part in lower(model).outputs}
    assert parts == {(BINS, CLASSES, CLASSES), (0, BINS, 0)}
    found = HostProgram(model, kernel_folder).run(images)
    assert np.abs(found - run_whole(model.proto, images, ["output"])["output"]).max() < 0.02


def test_a_concatenation_lies_beside_its_parts() -> None:
    graph = QdqGraph(SIZE_WH)
    first = graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2)
    parts = [graph.convolution(first, 16, 24, 1), graph.convolution(first, 16, 32, 1)]
    graph.output(graph.node("Concat", parts, axis=1), 56)
    steps = schedule(lower(graph.model())).steps
    assert not any(isinstance(step.node, (Copy, Combination)) for step in steps)
    results = [step.result for step in steps if step.node.channels in (24, 32) and step.result is not None]
    assert len({result.group for result in results}) == 1
    assert len({result.start for result in results}) == 2


@pytest.mark.parametrize("quantised", [True, False])
def test_channels_that_are_read_twice_or_lie_far_apart(quantised: bool, kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH)
    scale = 0.03 if quantised else 0
    first = graph.convolution(graph.pair("images", 0.02), 3, 64, stride=2, scale=scale)
    twice = graph.node("Concat", [graph.sliced(first, 0, 9)] * 2, axis=1)
    far = graph.node("Concat", [graph.sliced(first, 0, 1), graph.sliced(first, 63, 64)], axis=1)
    graph.output(graph.convolution(twice, 18, 18, group=18, quantised=quantised, scale=scale), 18)
    graph.output(graph.convolution(twice, 18, 8, quantised=quantised, scale=scale), 8)
    graph.output(far, 2)
    model, images = graph.model(), pictures(1, SIZE_WH)
    assert sum(isinstance(step.node, Copy) for step in schedule(lower(model)).steps) == 2
    found, expected = (
        HostProgram(model, kernel_folder).run(images),
        run_whole(model.proto, images, ["output"])["output"],
    )
    assert np.abs(found - expected).max() < 0.1


def networks() -> list[QdqGraph]:
    """Graphs with tensors of many sizes and lifetimes."""
    found = []
    for scale in (0.03, 0.0):
        graph = QdqGraph(SIZE_WH)
        tensor = graph.convolution(graph.pair("images", 0.02), 3, 24, stride=2, scale=scale)
        kept = [tensor]
        for width in (24, 40, 24, 8):
            tensor = graph.convolution(tensor, {24: 24, 40: 24, 8: 24}[width], 24, 3, scale=scale)
            kept.append(tensor)
        joined = graph.node("Concat", [kept[0], kept[3]], axis=1)
        graph.output(graph.convolution(joined, 48, 24, 3, quantised=scale > 0, scale=scale), 24)
        graph.output(graph.convolution(kept[2], 24, 24, stride=2, scale=scale), 24)
        found.append(graph)
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_memory_is_never_shared_by_tensors_that_live_together(index: int) -> None:
    steps = schedule(lower(networks()[index].model())).steps
    lives: dict[object, list[int]] = {}
    for place, step in enumerate(steps):
        for group in [source.group for source in step.sources] + ([step.result.group] if step.result else []):
            if not group.is_input:
                lives.setdefault(group, []).append(place)
    for one, uses in lives.items():
        for other, others in lives.items():
            if one is other or uses[0] > others[-1] or others[0] > uses[-1]:
                continue
            assert one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset


@pytest.mark.parametrize("index", [0, 1])
def test_a_kernel_writes_only_its_own_tensor(index: int, kernel_folder: Path) -> None:
    """Also where the channels of a float16 tensor are no multiple of what kernels store at a time."""
    model = networks()[index].model()
    program = HostProgram(model, kernel_folder, batch=2)
    program.set_input(pictures(2, SIZE_WH))
    for launch in program.launches:
        before = program.tensors.copy()
        program.tensors[:] = 0x11  # small numbers in both types
        marked = program.tensors.copy()
        result = launch.step.result
        for group in {source.group for source in launch.step.sources if not source.group.is_input}:
            part = slice(2 * group.offset, 2 * (group.offset + group.nbytes))
            program.tensors[part] = marked[part] = before[part]
        program.launch(launch)
        changed = np.flatnonzero(program.tensors != marked)
        if result is None:
            assert not len(changed)
            continue
        group = result.group
        pixel, at = np.divmod(changed - 2 * group.offset, group.pitch * group.size)
        step = 16 * group.size
        end = group.size * (result.start + int(result.places.max()) + 1)
        assert ((pixel >= 0) & (pixel < 2 * group.height * group.width)).all()
        assert ((at >= group.size * result.start) & (at < -(-end // step) * step)).all(), launch.step
        program.tensors[:] = np.where(program.tensors != marked, program.tensors, before)


def test_a_batch_that_int32_can_not_count_is_refused() -> None:
    graph = QdqGraph(SIZE_WH)
    graph.output(graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2), 16)
    network = lower(graph.model())
    made = schedule(network)
    packed = [pack(step) for step in made.steps]
    memory = Memory(0, 0, 0, [dict.fromkeys(one.arrays, 0) for one in packed])
    most = ((1 << 31) - 1) // made.most_bytes
    ProgramBuilder(network, made, packed, most, memory)
    with pytest.raises(UnavailableError, match=f"network.onnx: .* too large for batches of {most + 1}"):
        ProgramBuilder(network, made, packed, most + 1, memory)


@given(st.integers(0, (1 << 31) - 1), st.one_of(st.integers(1, 4096), st.integers(1, (1 << 31) - 1)))
def test_divisors_divide(value: int, number: int) -> None:
    """As `divide` of source/warp.cuh computes it, in 32 bits."""
    found = divisor(number)
    total = (value * int(found["factor"]) >> 32) + value
    assert total < 1 << 32
    assert total >> int(found["shift"]) == value // number


def test_zero_points_of_both_kinds() -> None:
    """uint8's 128 is stored as int8's 0."""
    fills = []
    for zero_point in (None, 0):
        graph = QdqGraph(SIZE_WH, zero_point=zero_point)
        graph.output(graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2), 16)
        model = graph.model()
        assert any(numpy_helper.to_array(c).dtype == np.uint8 for c in model.proto.graph.initializer) == (
            zero_point is None
        )
        fills.append(schedule(lower(model)).input_format.zero_point)
    assert fills == [0, 0]
