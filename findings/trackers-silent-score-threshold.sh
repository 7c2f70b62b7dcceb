#!/usr/bin/env bash
# One would expect a tracker that is given detections to give each of them an id after a few frames, or to say that it doesn't. trackers 2.6.1 begins no track below its own threshold (ByteTrack and BoT-SORT 0.7, OC-SORT 0.6), and a box that scores 0.65 in every frame keeps the id -1 for ever, without a word; BoT-SORT also leaves boxes of 0.1 and less out of its result, so that it has fewer rows than were given, in another order.
# A small detector often scores 0.4 to 0.65: most of what is shown would have no id. Here the scores are scaled so that the lowest score to report is the tracker's threshold, and rows are numbered to find them again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install trackers==2.6.1 supervision==0.31.2
cat > "$work/track.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import supervision as sv
from trackers import BoTSORTTracker, ByteTrackTracker, OCSORTTracker, SORTTracker


def last_ids(tracker, *scores):
    for frame in range(30):
        boxes = [[100.0 + frame + 300 * n, 100.0, 160.0 + frame + 300 * n, 200.0] for n in range(len(scores))]
        found = sv.Detections(np.array(boxes), confidence=np.array(scores), class_id=np.arange(len(scores)))
        tracked = tracker.update(found, timestamp=frame / 30)
    return dict(zip(tracked.class_id.tolist(), tracked.tracker_id.tolist()))


print("trackers", version("trackers"), "supervision", version("supervision"))
seen = {}
for make in (SORTTracker, ByteTrackTracker, OCSORTTracker, BoTSORTTracker):
    seen[make.__name__] = [last_ids(make(), score).get(0) for score in (0.9, 0.65, 0.55)]
    print(make.__name__, "after 30 frames, ids of a box of 0.9, 0.65, 0.55:", seen[make.__name__])
rows = last_ids(BoTSORTTracker(), 0.05, 0.9)
print("BoT-SORT was given 2 boxes, 0.05 and 0.9, and returns", len(rows))
wanted = {
    "SORTTracker": [0, 0, 0],
    "ByteTrackTracker": [0, -1, -1],
    "OCSORTTracker": [0, 0, -1],
    "BoTSORTTracker": [0, -1, -1],
}
sys.exit(0 if seen == wanted and rows == {1: 0} else "trackers behaves differently now")
PY
"$work/venv/bin/python" -W ignore "$work/track.py"
