"""Threads and queues between sources, the detector and sinks."""
