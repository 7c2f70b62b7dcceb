"""Trains NanoDet networks. Its modules import torch."""
