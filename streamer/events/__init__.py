"""Messages about what is detected: a durable queue, and receivers that each get every message in order."""
