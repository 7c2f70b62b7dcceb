"""The NanoDet networks in PyTorch, under the parameter names of official checkpoints. Importing this imports torch."""

from streamer.models.nanodet.fuse import conv_norm_pairs, fuse_batchnorm
from streamer.models.nanodet.network import NanoDet, build
from streamer.models.nanodet.weights import NEVER_APPLIED, load_into

__all__ = ["NEVER_APPLIED", "NanoDet", "build", "conv_norm_pairs", "fuse_batchnorm", "load_into"]
