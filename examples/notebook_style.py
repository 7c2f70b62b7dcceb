# %% [markdown]
# Detections in one picture, cell by cell: open this file in VS Code or with Jupytext.

# %%
from pathlib import Path
from tempfile import mkdtemp

import cv2

from streamer import open_detector, open_source

# %% One frame of the packaged clip; any file, URL or camera number works.
with open_source("sample") as source:
    frame = next(iter(source))
print(frame.image.shape)  # (height, width, 3), BGR

# %% Detect.
detector = open_detector("nanodet-g_416")
((_, found),) = detector.stream([frame])
for class_id, score in zip(found.class_ids, found.scores, strict=True):
    print(f"{detector.labels[class_id]} {score:.2f}")

# %% Draw by hand and look.
picture = frame.image.copy()
for left, top, right, bottom in found.boxes_xyxy.round().astype(int).tolist():
    cv2.rectangle(picture, (left, top), (right, bottom), (0, 200, 0), 2)
path = Path(mkdtemp()) / "found.png"
cv2.imwrite(str(path), picture)
print(path)

# %%
detector.close()
