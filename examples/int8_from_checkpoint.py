"""From a checkpoint to a measured INT8 model, in code: python examples/int8_from_checkpoint.py CHECKPOINT IMAGES LABELS

Without arguments it makes a small set from the packaged clip, labelled by the packaged float model, and quantises that
model's own float file: a demonstration of the calls, not of accuracy. pip install '.[calibration]'
"""

from __future__ import annotations

import sys
from importlib.resources import files
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp

import cv2
import onnx

from calibration.cli import main as calibration
from streamer import open_detector, open_source

MODEL = "nanodet-g_416"


def labelled_frames(folder: Path, count: int) -> tuple[Path, Path]:
    """Writes frames of the packaged clip and, as YOLO text, what the float model finds in them."""
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    with open_detector(f"{MODEL}_float", conf=0.5) as detector, open_source("sample") as source:
        for frame, found in detector.stream(islice(source, 0, count * 9, 9)):
            width, height = frame.size_wh
            cv2.imwrite(str(images / f"{frame.index:04}.jpg"), frame.image)
            lines = [
                f"{class_id} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f}"
                f" {(y2 - y1) / height:.6f}"
                for class_id, (x1, y1, x2, y2) in zip(found.class_ids, found.boxes_xyxy.tolist(), strict=True)
            ]
            (labels / f"{frame.index:04}.txt").write_text("\n".join(lines))
    return images, labels


def write_float32(path: str) -> None:
    """Writes the packaged float model, whose weights are stored in half precision, with float32 weights."""
    model = onnx.load(files("streamer") / "data" / f"{MODEL}_float.onnx")
    graph = model.graph
    halves = {weight.name: weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16}
    for cast in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]:
        half = halves[cast.input[0]]
        whole = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(half).astype("float32"), cast.output[0])
        graph.initializer.append(whole)
        graph.initializer.remove(half)
        graph.node.remove(cast)
    onnx.save(model, path)


def main(arguments: list[str]) -> int:
    """Runs the verbs of `python -m calibration`; returns the exit status."""
    folder = Path(mkdtemp())
    if arguments:
        checkpoint, images, labels = arguments
        given = ["--images", images, "--labels", labels]
        return calibration(["make", MODEL, "--checkpoint", checkpoint, *given, "-d", str(folder)])
    images_dir, labels_dir = labelled_frames(folder, 24)
    given = ["--images", str(images_dir), "--labels", str(labels_dir)]
    float_model = str(folder / f"{MODEL}.onnx")
    write_float32(float_model)
    model = str(folder / f"{MODEL}_int8.onnx")
    status = calibration(["quantize", float_model, "-o", model, *given, "--method", "minmax", "--no-distill"])
    return status or calibration(["val", "--model", model, *given])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
