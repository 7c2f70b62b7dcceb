"""The folder of a training run: its settings, results, checkpoints, pictures and model card."""
