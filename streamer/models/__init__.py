"""Model files: their description, graph, input geometry and decoding."""
