"""From a checkpoint to a measured model: `python -m calibration <verb>`."""
