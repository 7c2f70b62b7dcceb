"""What every room may use: errors, queues, files, units, redaction."""
