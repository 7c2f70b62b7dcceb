// Plays a recording or clip, with what was detected drawn over it.

import { api, urls } from "./api.js";
import { DetectionTrack, drawBoxes } from "./boxes.js";
import { labels } from "./classes.js";
import { announce, button, h, icon } from "./dom.js";
import { day, exactClock, t } from "./i18n.js";
import { confirmed, errorText, openDialog, toggle } from "./parts.js";
import { prefs, setPref } from "./prefs.js";

/** Reads JSON lines of detections, as the program writes them, into fractions of the picture by time. */
export function readDetections(text) {
  const track = new DetectionTrack(Infinity);
  for (const line of text.split("\n")) {
    if (!line) continue;
    const { pts_s, width, height, detections } = JSON.parse(line);
    track.add(pts_s, detections.map(({ class_id, label, score, box_xyxy: [x1, y1, x2, y2] }) =>
      [class_id ?? labels().indexOf(label), score, x1 / width, y1 / height, x2 / width, y2 / height]));
  }
  return track;
}

async function loadTrack(kind, id) {
  const answer = await fetch(urls.detections(kind, id));
  return answer.ok ? readDetections(await answer.text()) : new DetectionTrack();
}

/** Opens the dialog for an item of the timeline; calls `removed` after a clip was removed, `closed` at the end. */
export function openPlayback(item, { signal, removed, closed }) {
  const video = h("video", { src: urls.video(item.kind, item.id), controls: true, autoplay: true, playsinline: true, preload: "auto" });
  video.muted = true;
  const canvas = h("canvas", { "aria-hidden": "true" });
  const problem = h("p", { class: "error", role: "alert", hidden: true }, t("playback.failed"));
  let track = new DetectionTrack();
  let call = 0;
  const draw = (mediaTime) => {
    const found = prefs.boxes ? track.at(mediaTime) : null;
    drawBoxes(canvas, [video.videoWidth, video.videoHeight], found);
  };
  const onFrame = (_now, { mediaTime }) => {
    draw(mediaTime);
    call = video.requestVideoFrameCallback(onFrame);
  };
  if ("requestVideoFrameCallback" in video) call = video.requestVideoFrameCallback(onFrame);
  else video.addEventListener("timeupdate", () => draw(video.currentTime));
  video.addEventListener("error", () => { problem.hidden = false; });

  const remove = async () => {
    if (!(await confirmed(t("clip.remove"), t("clip.remove_question"), t("clip.remove")))) return;
    try {
      await api.removeClip(item.id);
      dialog.close();
      removed();
      announce(t("clip.removed"));
    } catch (error) {
      announce(errorText(error));
    }
  };
  const begin = new Date(item.begin_utc);
  const title = t("playback.title", { source: item.source, day: day(begin), time: exactClock(begin) });
  const dialog = openDialog(title, h("div", {},
    h("div", { class: "picture playback" }, video, canvas), problem,
    h("div", { class: "actions" },
      toggle(t("boxes"), prefs.boxes, (isOn) => { setPref("boxes", isOn); draw(video.currentTime); }),
      h("span", { class: "spacer" }),
      item.kind === "clips" && button("trash", t("clip.remove"), remove, { text: true, class: "danger quiet" }),
      h("a", { class: "button", href: urls.download(item.kind, item.id), download: true }, icon("download"), t("download")))), { wide: true, signal });
  const sized = new ResizeObserver(() => draw(video.currentTime));
  sized.observe(canvas);
  dialog.addEventListener("close", () => {
    video.cancelVideoFrameCallback?.(call);
    sized.disconnect();
    video.removeAttribute("src");
    video.load();
    closed();
  });
  loadTrack(item.kind, item.id).then((loaded) => { track = loaded; draw(video.currentTime); }, () => {});
}
