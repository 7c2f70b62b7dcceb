"""TensorRT and TensorRT-RTX engines: built from a model file, kept with a fingerprint, found again.

`cached_engine` gives the file for the present GPU, building it on first use; `read_engine` its bytes, checked. Every
builder and runtime takes `shared_logger`. Nothing here imports TensorRT before it is asked to.
"""

from streamer.tensorrt.builder import BuiltEngine, Job, Port, Progress, build_engine, plan
from streamer.tensorrt.cache import (
    EngineReport,
    cached_engine,
    read_engine,
    read_report,
    report_path,
    write_engine,
)
from streamer.tensorrt.flavour import Flavour, GpuModel, load_flavour, parse_targets, present_gpu
from streamer.tensorrt.layers import UNKNOWN, Layer, summary
from streamer.tensorrt.log import shared_logger
from streamer.tensorrt.options import BuildOptions

__all__ = [
    "UNKNOWN",
    "BuildOptions",
    "BuiltEngine",
    "EngineReport",
    "Flavour",
    "GpuModel",
    "Job",
    "Layer",
    "Port",
    "Progress",
    "build_engine",
    "cached_engine",
    "load_flavour",
    "parse_targets",
    "plan",
    "present_gpu",
    "read_engine",
    "read_report",
    "report_path",
    "shared_logger",
    "summary",
    "write_engine",
]
