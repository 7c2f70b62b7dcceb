// Live video by Media Source Extensions: fragments of MP4 that come over a WebSocket.

import { LiveEdge } from "./live_edge.js";
import { urls } from "./api.js";

const KEPT_BEHIND_S = 8;
const CONTROL_MS = 100;
const Source = window.ManagedMediaSource ?? window.MediaSource; // the first on iPhones
const NOT_PLAYABLE = 4415; // the program's close code
const CODECS = { avc1: "avc1.64001f", hvc1: "hvc1.1.6.L120.90" };

/** What this browser can play of what the program can send, as the live address wants it. */
export const playableCodecs = () =>
  Object.keys(CODECS).filter((name) => Source?.isTypeSupported(`video/mp4; codecs="${CODECS[name]}"`));

/** One connection that shows one stream in a video element. */
export class MseTransport {
  static isSupported = () => playableCodecs().length > 0;

  /** `hooks`: onFormat(format), onDetections(pts_s, boxes), onState(message), onFailure(reason, isFinal). */
  constructor(video, name, view, hooks) {
    this.video = video;
    this.hooks = hooks;
    this.edge = new LiveEdge();
    this.format = null;
    this.#address = urls.live(name, { view, codecs: playableCodecs().join(",") });
  }

  #address;
  #socket = null;
  #media = null;
  #buffer = null;
  #url = null;
  #queue = [];
  #timer = 0;
  #lagAt = 0;
  #seen = null; // the newest picture at the last look
  #isClosed = false;
  #hasJumped = false;

  start() {
    const socket = new WebSocket(this.#address);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#read(JSON.parse(data)) : this.#take(data));
    socket.onclose = (event) => this.#fail(`closed ${event.code}`, event.code === NOT_PLAYABLE);
    this.video.addEventListener("error", this.#onError);
    this.#timer = setInterval(() => this.#control(), CONTROL_MS);
  }

  close() {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.video.removeEventListener("error", this.#onError);
    this.#detach();
  }

  /** Seconds between the newest picture that has arrived and the one that is shown; null before the first. */
  get behindS() {
    return this.edge.behindS;
  }

  /** When the newest picture that has arrived begins, in media time. Fragments last longer than their pictures. */
  get #newest() {
    const ranges = this.#buffer && this.#media.readyState === "open" ? this.#buffer.buffered : null;
    return ranges?.length ? ranges.end(ranges.length - 1) - this.format.fragment_s : null;
  }

  /** The time of a picture in the program's clock. */
  ptsOf(mediaTime) {
    return mediaTime + (this.format?.origin_s ?? 0);
  }

  #onError = () => this.#fail(this.video.error?.message ?? "media", this.video.error?.code === 4);

  #fail(reason, isFinal) {
    if (this.#isClosed) return;
    this.close();
    this.hooks.onFailure(reason, isFinal);
  }

  #read(message) {
    if (message.type === "detections") {
      const newest = this.#newest;
      if (newest !== null && this.#hasJumped) this.edge.noteDetections(this.ptsOf(newest) - message.pts_s);
      this.hooks.onDetections(message.pts_s, message.boxes);
    } else if (message.type === "format") {
      this.#open(message);
    } else {
      this.hooks.onState(message);
    }
  }

  /** Begins anew with another format: a source's pictures may now have another size, codec and clock. */
  #open(format) {
    this.#detach();
    this.format = format;
    if (!Source.isTypeSupported(format.mime)) {
      this.#fail(format.mime, true);
      return;
    }
    const media = new Source();
    this.#media = media;
    this.#url = URL.createObjectURL(media);
    media.addEventListener("sourceopen", () => {
      if (this.#media !== media || this.#isClosed) return;
      media.duration = Infinity;
      this.#buffer = media.addSourceBuffer(format.mime);
      this.#buffer.addEventListener("updateend", () => this.#appended());
      this.#append();
    }, { once: true });
    this.video.disableRemotePlayback = true;
    this.video.src = this.#url;
    this.hooks.onFormat(format);
  }

  #detach() {
    this.#media = this.#buffer = null;
    this.#queue = [];
    this.#hasJumped = false;
    this.#seen = null;
    if (this.#url === null) return;
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  #take(data) {
    if (this.#media === null) return;
    this.#queue.push(data);
    this.#append();
  }

  #append() {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || this.#media.readyState !== "open" || !this.#queue.length) return;
    const all = this.#queue.length === 1 ? this.#queue[0] : joined(this.#queue);
    try {
      buffer.appendBuffer(all);
      this.#queue = [];
    } catch (error) {
      if (error.name !== "QuotaExceededError") this.#fail(error.message, false);
      else this.#trim(1);
    }
  }

  #trim(keptS) {
    const { buffered, updating } = this.#buffer;
    const until = this.video.currentTime - keptS;
    if (!updating && buffered.length && buffered.start(0) < until) this.#buffer.remove(0, until);
  }

  #appended() {
    const newest = this.#newest;
    if (newest !== null && newest !== this.#seen) {
      this.#seen = newest;
      if (this.#hasJumped && !this.video.seeking) this.edge.noteArrival(newest - this.video.currentTime);
    }
    this.#append();
  }

  #control() {
    const newest = this.#newest;
    const { video } = this;
    if (newest === null || video.seeking) return;
    const { rate, jump } = this.#hasJumped ? this.edge.step() : { rate: 1, jump: true };
    if (jump) {
      const ranges = this.#buffer.buffered;
      video.currentTime = Math.max(ranges.start(ranges.length - 1), newest - this.edge.targetS);
      this.edge.jumped();
      this.#hasJumped = true;
    }
    if (video.playbackRate !== rate) video.playbackRate = rate;
    if (video.paused) video.play().catch(() => this.hooks.onState({ type: "paused" }));
    this.#trim(KEPT_BEHIND_S);
    if (this.#socket.readyState === WebSocket.OPEN && performance.now() - this.#lagAt > 1000) {
      this.#lagAt = performance.now();
      this.#socket.send(JSON.stringify({ type: "lag", buffered_s: Math.max(0, newest - video.currentTime) }));
    }
  }
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    all.set(new Uint8Array(part), at);
    at += part.byteLength;
  }
  return all;
}
