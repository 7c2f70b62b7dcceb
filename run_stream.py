# PYTHON_ARGCOMPLETE_OK
"""Runs the streamer: see `python run_stream.py --help`."""

from streamer.__main__ import main

if __name__ == "__main__":
    main()
