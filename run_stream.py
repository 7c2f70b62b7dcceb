"""Runs the streamer: see `python run_stream.py --help`."""

import sys

from streamer.cli import main

if __name__ == "__main__":
    sys.exit(main())
