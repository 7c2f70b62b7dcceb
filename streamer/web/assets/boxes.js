// Which boxes belong to a picture, and how they are drawn over it.

import { colourOf, inkOf, labelOf } from "./classes.js";
import { percent } from "./i18n.js";

const KEPT_S = 30;
const SAME_S = 0.004; // stamps of one frame differ by rounding
const [LEAST_HOLD_S, LONGEST_HOLD_S] = [1, 2];
const FRESH_S = 0.1;

/**
 * What was detected, by time. A picture has the boxes of the newest processed frame that isn't after it; they are late
 * where newer ones should have come, as on a machine that is too busy.
 */
export class DetectionTrack {
  #items = []; // {pts_s, boxes}, by pts_s

  constructor(keptS = KEPT_S) {
    this.keptS = keptS;
  }

  clear() {
    this.#items = [];
  }

  /** Takes what was found in one frame: `boxes` of [class_id, score, x1, y1, x2, y2] as fractions of the picture. */
  add(pts_s, boxes) {
    const items = this.#items;
    let index = items.length;
    while (index > 0 && items[index - 1].pts_s > pts_s) index -= 1;
    items.splice(index, 0, { pts_s, boxes });
    const first = items.findIndex((each) => each.pts_s >= items[items.length - 1].pts_s - this.keptS);
    if (first > 64) items.splice(0, first);
  }

  /** Returns {pts_s, boxes, isLate} for the picture of that time, or null. */
  at(pts_s) {
    const items = this.#items;
    let [low, high] = [0, items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (items[middle].pts_s <= pts_s + SAME_S) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return null;
    const found = items[low - 1];
    const spacing = low > 1 ? found.pts_s - items[low - 2].pts_s : 0;
    const age = pts_s - found.pts_s;
    const due = Math.min(LONGEST_HOLD_S, 1.5 * spacing);
    return age <= Math.max(LEAST_HOLD_S, due) ? { ...found, isLate: age > Math.max(FRESH_S, due) } : null;
  }
}

/** Where a picture of `size_wh` is within an element, as object-fit: contain puts it: [x, y, width, height]. */
export function pictureIn(widthPx, heightPx, [width, height]) {
  const scale = Math.min(widthPx / width, heightPx / height);
  const [w, h] = [width * scale, height * scale];
  return [(widthPx - w) / 2, (heightPx - h) / 2, w, h];
}

/** Draws what was found over an element of the canvas's size, dashed where it is late; null only clears. */
export function drawBoxes(canvas, size_wh, found) {
  const ratio = window.devicePixelRatio || 1;
  const [cssWidth, cssHeight] = [canvas.clientWidth, canvas.clientHeight];
  const [width, height] = [Math.round(cssWidth * ratio), Math.round(cssHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!found?.boxes.length || !size_wh?.[0] || !width) return;
  context.scale(ratio, ratio);
  const [left, top, w, h] = pictureIn(cssWidth, cssHeight, size_wh);
  const isSmall = cssWidth < 420;
  const font = isSmall ? 11 : 13;
  context.font = `600 ${font}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineWidth = isSmall ? 1.5 : 2;
  context.setLineDash(found.isLate ? [6, 4] : []);
  for (const [classId, score, x1, y1, x2, y2] of found.boxes) {
    const [x, y] = [left + x1 * w, top + y1 * h];
    const [boxWidth, boxHeight] = [(x2 - x1) * w, (y2 - y1) * h];
    context.strokeStyle = colourOf(classId);
    context.strokeRect(x, y, boxWidth, boxHeight);
    if (isSmall && boxWidth < 28) continue; // no room to read it
    const text = `${labelOf(classId)} ${percent(score)}`;
    const labelWidth = context.measureText(text).width + 8;
    const labelX = Math.max(left, Math.min(x - context.lineWidth / 2, left + w - labelWidth));
    const labelY = y - font - 5 < top ? y : y - font - 5;
    context.fillStyle = colourOf(classId);
    context.fillRect(labelX, labelY, labelWidth, font + 5);
    context.fillStyle = inkOf(classId);
    context.fillText(text, labelX + 4, labelY + (font + 5) / 2 + 0.5);
  }
}
