"""Sources that are read and decoded in worker processes, so that they don't contend for this interpreter's GIL.

`DecoderPool.open` returns a `Source`. Frames that NVDEC decoded stay on the GPU, where this process reads them in
place through CUDA IPC; others are copied.
"""

from streamer.sources.workers.pool import DecoderPool as DecoderPool
from streamer.sources.workers.pool import default_process_count as default_process_count
