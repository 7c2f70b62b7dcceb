// <live-player name="door">: one stream, live, with boxes over the very picture that they belong to.

import { DetectionTrack, drawBoxes } from "./boxes.js";
import { h, icon, setText } from "./dom.js";
import { t } from "./i18n.js";
import { MjpegTransport } from "./mjpeg.js";
import { MseTransport } from "./mse.js";
import { prefs } from "./prefs.js";
import { WebRtcTransport } from "./webrtc.js";

export const MODES = { mse: MseTransport, webrtc: WebRtcTransport, mjpeg: MjpegTransport };
const RETRY_MS = [300, 1000, 2000, 4000, 8000];
const LEAVE_MS = 1500; // scrolled or switched away for less than this: the connection stays
const FIRST_PICTURE_MS = 12000;
const TRIES = 2;

/** Plays while it is seen. Event `mode` when how it plays has changed; `presented` is what is drawn now. */
export class LivePlayer extends HTMLElement {
  static observedAttributes = ["name", "view"];

  /** How it plays now ("mse", "webrtc", "mjpeg"), null while it doesn't. */
  mode = null;
  /** What the newest picture shows: {pts_s, boxes, boxes_pts_s, isLate}. */
  presented = null;
  format = null;

  #track = new DetectionTrack();
  #transport = null;
  #choice = 0;
  #tries = 0;
  #failures = 0;
  #isSeen = false;
  #hasPicture = false;
  #timers = { leave: 0, retry: 0, first: 0 };
  #frameCall = 0;

  constructor() {
    super();
    this.video = h("video", { muted: true, playsinline: true, "aria-hidden": "true", tabindex: "-1" });
    this.video.muted = true;
    this.image = h("img", { alt: "", hidden: true });
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.message = h("p", { class: "player-message", role: "status" });
    this.resume = h("button", { type: "button", class: "player-resume", hidden: true,
      on: { click: (event) => { event.preventDefault(); this.video.play().then(() => { this.resume.hidden = true; }); } } }, icon("play"));
    this.seen = new IntersectionObserver(([entry]) => { this.#isSeen = entry.isIntersecting; this.#update(); }, { rootMargin: "120px" });
    this.sized = new ResizeObserver(() => this.draw());
    this.#onVisibility = () => this.#update();
    this.#onPrefs = ({ detail }) => this.#prefer(detail);
  }

  #onVisibility;
  #onPrefs;

  connectedCallback() {
    this.resume.setAttribute("aria-label", t("player.play"));
    this.append(this.video, this.image, this.canvas, this.message, this.resume);
    this.seen.observe(this);
    this.sized.observe(this);
    document.addEventListener("visibilitychange", this.#onVisibility);
    window.addEventListener("prefs", this.#onPrefs);
  }

  disconnectedCallback() {
    this.seen.disconnect();
    this.sized.disconnect();
    document.removeEventListener("visibilitychange", this.#onVisibility);
    window.removeEventListener("prefs", this.#onPrefs);
    this.#isSeen = false;
    this.#stop();
  }

  attributeChangedCallback(_name, before, after) {
    if (before !== null && before !== after) this.restart();
  }

  /** Seconds between the newest picture that arrived and the one shown; null where the browser doesn't tell. */
  get behindS() {
    return this.#transport?.behindS ?? null;
  }

  get targetS() {
    return this.#transport?.edge?.targetS ?? null;
  }

  /** Connects anew, with the mode that is preferred now. */
  restart() {
    this.#stop();
    this.#choice = this.#tries = 0;
    this.#update();
  }

  /** Draws the boxes of the picture shown, or none. */
  draw() {
    const isShown = prefs.boxes && this.getAttribute("view") !== "boxes" && this.presented !== null;
    const size = this.video.videoWidth ? [this.video.videoWidth, this.video.videoHeight] : this.format?.size_wh;
    drawBoxes(this.canvas, size, isShown ? this.presented : null);
  }

  get #modes() {
    return [prefs.mode, ...Object.keys(MODES).filter((mode) => mode !== prefs.mode)].filter((mode) => MODES[mode].isSupported());
  }

  #prefer(what) {
    if (what === "mode") this.restart();
    if (what !== "boxes") return;
    this.draw();
    if (this.mode === "mjpeg") this.#transport?.load(prefs.boxes);
  }

  #update() {
    clearTimeout(this.#timers.leave);
    if (this.#isSeen && !document.hidden) {
      if (this.#transport === null && this.isConnected) this.#begin();
    } else {
      this.#timers.leave = setTimeout(() => this.#stop(), LEAVE_MS);
    }
  }

  #stop() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#transport?.close();
    this.#transport = null;
    this.mode = null;
    if (this.#frameCall) this.video.cancelVideoFrameCallback?.(this.#frameCall);
    this.#frameCall = 0;
  }

  #begin() {
    clearTimeout(this.#timers.retry);
    const modes = this.#modes;
    this.mode = modes[this.#choice % modes.length];
    this.#hasPicture = false;
    this.presented = null;
    this.format = null;
    this.#track.clear();
    const isImage = this.mode === "mjpeg";
    this.image.hidden = !isImage;
    this.video.hidden = this.canvas.hidden = isImage;
    const element = isImage ? this.image : this.video;
    this.#transport = new MODES[this.mode](element, this.getAttribute("name"), this.getAttribute("view") ?? "plain", {
      hasBoxes: () => prefs.boxes,
      onFormat: (format) => { this.format = format; this.#track.clear(); this.#changed(); },
      onDetections: (pts_s, boxes) => this.#take(pts_s, boxes),
      onState: (message) => this.#tell(message),
      onFailure: (reason, isFinal) => this.#fail(reason, isFinal),
    });
    this.#say("player.connecting");
    this.#transport.start();
    if (isImage) this.image.addEventListener("load", () => this.#pictureShown(), { once: true });
    else this.#nextFrame();
    this.#timers.first = setTimeout(() => this.#lookForPicture(), FIRST_PICTURE_MS);
    this.#changed();
  }

  #lookForPicture() {
    // Without a format the stream itself has nothing to show yet: another mode would not either.
    if (this.#hasPicture || this.#transport === null || (this.mode === "mse" && this.format === null)) return;
    this.#transport.close();
    this.#fail("no picture", true);
  }

  #fail(_reason, isFinal) {
    this.#stop();
    this.#tries += 1;
    if (isFinal || (this.#tries >= TRIES && !this.#hasPicture)) {
      this.#choice += 1;
      this.#tries = 0;
    }
    const wait = RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)] * (0.8 + 0.4 * Math.random());
    this.#say("player.again");
    this.#timers.retry = setTimeout(() => this.#update(), wait);
    this.#changed();
  }

  #nextFrame() {
    const show = (_now, { mediaTime, rtpTimestamp }) => {
      if (this.#transport === null) return;
      this.#frameCall = this.video.requestVideoFrameCallback(show);
      this.#present(this.#transport.ptsOf(mediaTime, rtpTimestamp));
    };
    if ("requestVideoFrameCallback" in this.video) {
      this.#frameCall = this.video.requestVideoFrameCallback(show);
      return;
    }
    const poll = () => {
      if (this.#transport === null) return;
      if (this.video.readyState > 1) this.#present(this.#transport.ptsOf(this.video.currentTime));
      requestAnimationFrame(poll);
    };
    requestAnimationFrame(poll);
  }

  #present(pts_s) {
    if (!this.#hasPicture) this.#pictureShown();
    const found = pts_s === null ? null : this.#track.at(pts_s);
    this.presented = { pts_s, boxes: found?.boxes ?? [], boxes_pts_s: found?.pts_s ?? null, isLate: found?.isLate ?? false };
    this.draw();
  }

  /** Takes detections; those of the picture that is shown already are drawn at once. */
  #take(pts_s, boxes) {
    this.#track.add(pts_s, boxes);
    if (this.presented?.pts_s && pts_s <= this.presented.pts_s) this.#present(this.presented.pts_s);
  }

  #pictureShown() {
    this.#hasPicture = true;
    this.#failures = 0;
    clearTimeout(this.#timers.first);
    this.resume.hidden = true;
    this.#say(null);
  }

  #tell(message) {
    if (message.type === "state") this.#say(message.state === "running" ? null : `state.${message.state}`);
    if (message.type === "end") this.#say("state.ended");
    if (message.type === "paused") this.resume.hidden = false;
  }

  #say(key) {
    setText(this.message, key === null ? "" : t(key));
    this.message.hidden = key === null;
  }

  #changed() {
    this.dispatchEvent(new CustomEvent("mode"));
  }
}

customElements.define("live-player", LivePlayer);
