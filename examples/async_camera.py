"""Detections in an asyncio program: python examples/async_camera.py rtsp://camera/1

Another task runs while the camera and the detector work; both end after ten seconds, or with the source.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from streamer import Detector, Source, open_detector, open_source


async def watch(detector: Detector, source: Source) -> None:
    """Prints what comes into view and what leaves it."""
    before: set[str] = set()
    async with aclosing(detector.astream(source)) as results:
        async for frame, found in results:
            now = {one.label for one in found.filter(min_score=0.5)}
            if now != before:
                print(f"{frame.pts_s:6.2f} s  +{sorted(now - before)}  -{sorted(before - now)}")
            before = now


async def heartbeat() -> None:
    """Stands for the rest of the program: it isn't held up."""
    while True:
        await asyncio.sleep(1)
        print("still here")


async def main(uri: str) -> None:
    """Watches a source for ten seconds."""
    detector = await asyncio.to_thread(open_detector, "nanodet-g_416")
    source = await asyncio.to_thread(open_source, uri)
    with detector, source:
        beat = asyncio.create_task(heartbeat())
        try:
            await asyncio.wait_for(watch(detector, source), 10)
        except TimeoutError:
            print("enough")
        finally:
            beat.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sample"))
