"""The NanoDet networks in PyTorch, under the parameter names of official checkpoints. Importing this imports torch."""

from streamer.models.nanodet.checkpoint import NEVER_APPLIED, load_checkpoint, load_into
from streamer.models.nanodet.fuse import fuse_batchnorm
from streamer.models.nanodet.network import NanoDet, build

__all__ = ["NEVER_APPLIED", "NanoDet", "build", "fuse_batchnorm", "load_checkpoint", "load_into"]
