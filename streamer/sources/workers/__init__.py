"""Sources that are read and decoded in processes of their own: what they share no interpreter's lock with isn't slowed.

`DecoderPool.open` returns a `Source` like any other. Pictures that NVDEC decoded stay on the GPU, where this
process reads them in place; others are copied over.
"""

from streamer.sources.workers.pool import DecoderPool as DecoderPool
from streamer.sources.workers.pool import default_process_count as default_process_count
