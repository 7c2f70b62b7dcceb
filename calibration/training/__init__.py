"""Training: pictures to batches, losses, networks and the loop. Importing its modules imports torch."""
