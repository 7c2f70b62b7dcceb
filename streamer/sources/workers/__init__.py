"""Sources that are read and decoded in processes of their own: what they share no interpreter's lock with isn't slowed.

`DecodingProcesses.open` returns a `Source` like any other. Pictures that NVDEC decoded stay on the GPU, where this
process reads them in place; others are copied over.
"""

from streamer.sources.workers.pool import DecodingProcesses as DecodingProcesses
from streamer.sources.workers.pool import processes_for as processes_for
