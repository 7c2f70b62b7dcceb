"""TensorRT and TensorRT-RTX engines: built from a model file, kept with a fingerprint, found again.

`cached_engine` gives the file for the present GPU, building it on first use; `read_engine` its bytes, checked. Every
builder and runtime takes `shared_logger`. Nothing here imports TensorRT before it is asked to.
"""

from streamer.engines.tensorrt.builder import BuiltEngine, Job, Port, Progress, build_engine, plan
from streamer.engines.tensorrt.cache import (
    EngineReport,
    cached_engine,
    read_engine,
    read_report,
    report_path,
    write_engine,
)
from streamer.engines.tensorrt.layers import UNKNOWN, Layer, summary
from streamer.engines.tensorrt.log import shared_logger
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage, load_flavour, parse_targets, present_gpu

__all__ = [
    "UNKNOWN",
    "BuildOptions",
    "BuiltEngine",
    "EngineReport",
    "GpuModel",
    "Job",
    "Layer",
    "Port",
    "Progress",
    "TensorRTPackage",
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
