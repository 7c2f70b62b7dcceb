"""The NanoDet networks in PyTorch, under the parameter names of official checkpoints. Importing this imports torch."""

from streamer.nanodet.checkpoint import NEVER_APPLIED, load_checkpoint, load_into
from streamer.nanodet.fuse import fuse_batchnorm
from streamer.nanodet.network import NanoDet, build

__all__ = ["NEVER_APPLIED", "NanoDet", "build", "fuse_batchnorm", "load_checkpoint", "load_into"]
