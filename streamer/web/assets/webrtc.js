// Live video by WebRTC, where the program offers it.

import { api } from "./api.js";

const GATHER_MS = 2000;
const CLOCK_HZ = 90000; // of RTP's video stamps, which are numbers of 32 bits

/** One connection that shows one stream in a video element; boxes come over a data channel. */
export class WebRtcTransport {
  static isSupported = () => "RTCPeerConnection" in window;

  /** `hooks` as of MseTransport. */
  constructor(video, name, _view, hooks) {
    this.video = video;
    this.name = name;
    this.hooks = hooks;
    this.format = null;
  }

  #peer = null;
  #isClosed = false;
  #clock = null; // a stamp of RTP and its time in the program's clock

  async start() {
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.#peer = peer;
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.createDataChannel("detections").onmessage = ({ data }) => this.#read(JSON.parse(data));
    peer.ontrack = ({ track, receiver }) => {
      receiver.jitterBufferTarget = 0;
      this.video.srcObject = new MediaStream([track]);
      this.video.play().catch(() => this.hooks.onState({ type: "paused" }));
    };
    peer.onconnectionstatechange = () => {
      if (["failed", "disconnected", "closed"].includes(peer.connectionState)) this.#fail(peer.connectionState, false);
    };
    try {
      await peer.setLocalDescription(await peer.createOffer());
      await gathered(peer);
      const { sdp, type } = peer.localDescription;
      const answer = await api.webrtc(this.name, { sdp, type });
      if (!this.#isClosed) await peer.setRemoteDescription(answer);
    } catch (error) {
      this.#fail(error.message, error.status >= 400 && error.status !== 429);
    }
  }

  close() {
    this.#isClosed = true;
    this.#peer.onconnectionstatechange = this.#peer.ontrack = null;
    this.#peer.close();
    this.video.srcObject = null;
  }

  /** The time of a picture in the program's clock; null before the program has told how they go together. */
  ptsOf(_mediaTime, rtpTimestamp) {
    if (this.#clock === null || rtpTimestamp === undefined) return null;
    return this.#clock.pts_s + ((rtpTimestamp - this.#clock.rtp) | 0) / CLOCK_HZ;
  }

  get behindS() {
    return null; // the browser's own jitter buffer decides
  }

  #fail(reason, isFinal) {
    if (this.#isClosed) return;
    this.close();
    this.hooks.onFailure(reason, isFinal);
  }

  #read(message) {
    if (message.type === "detections") this.hooks.onDetections(message.pts_s, message.boxes);
    else if (message.type === "clock") this.#clock = message;
    else if (message.type === "format") this.hooks.onFormat((this.format = message));
    else this.hooks.onState(message);
  }
}

async function gathered(peer) {
  if (peer.iceGatheringState === "complete") return;
  await new Promise((done) => {
    const timer = setTimeout(done, GATHER_MS);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      done();
    });
  });
}
