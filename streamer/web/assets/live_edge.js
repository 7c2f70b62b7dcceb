// How far behind the newest picture a player stays: as far as detections need, and no farther.

const LEAST_S = 0.04;
const MOST_S = 0.3;
const STALL_STEP_S = 0.05;
const FORGET = 0.995; // a step: what once took long is forgotten in a minute
const SEEK_BEYOND_S = 1.0;
const SLACK_S = 0.04;

/** Decides, from how far behind playback is, whether to play a little faster or slower, or to jump. */
export class LiveEdge {
  #detectionsS = 0;
  #stallS = 0;

  /** Seconds to stay behind the newest picture, from 0.04 to 0.3. */
  get targetS() {
    return Math.min(MOST_S, Math.max(LEAST_S, this.#detectionsS + 0.02, this.#stallS));
  }

  /** Notes that detections arrived when their picture was that far behind the newest one. */
  noteDetections(behindS) {
    if (behindS > 0 && behindS < 5) this.#detectionsS = Math.max(behindS, this.#detectionsS * FORGET);
  }

  /** Notes that playback ran out of pictures: the source comes in bursts. */
  noteStall() {
    this.#stallS = Math.min(MOST_S, Math.max(this.targetS, this.#stallS) + STALL_STEP_S);
  }

  /** Returns {rate, jump}: the playback rate for now, and whether to go to the target at once. */
  step(behindS) {
    this.#stallS *= FORGET;
    const tooFar = behindS - this.targetS;
    if (tooFar > SEEK_BEYOND_S) return { rate: 1, jump: true };
    if (tooFar > SLACK_S) return { rate: tooFar > 0.3 ? 1.25 : 1.08, jump: false };
    if (tooFar < -SLACK_S / 2 && this.targetS > LEAST_S) return { rate: 0.94, jump: false };
    return { rate: 1, jump: false };
  }
}
