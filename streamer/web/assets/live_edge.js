// How far behind the newest picture a player stays: as far as detections and the network need, and no farther.

const LEAST_S = 0.04;
const MOST_S = 0.3;
const FORGET = 0.998; // an arrival: what once came late is forgotten within a minute
const SMOOTH = 0.1;
const SLACK_S = 0.025;
const FAR_S = 0.3;
const SEEK_BEYOND_S = 1.0;

/** Decides, from how far ahead of playback pictures arrive, whether to play a little faster or slower, or to jump. */
export class LiveEdge {
  #detectionsS = 0;
  #latenessS = 0;
  /** Seconds between the newest picture and the one shown, when pictures arrive; null before the first. */
  behindS = null;

  /** Seconds to stay behind the newest picture, from 0.04 to 0.3. */
  get targetS() {
    return Math.min(MOST_S, Math.max(LEAST_S, this.#detectionsS + 0.01, this.#latenessS));
  }

  /** Notes that detections arrived when their picture was that far behind the newest one. */
  noteDetections(behindS) {
    if (behindS > 0 && behindS < 5) this.#detectionsS = Math.max(behindS, this.#detectionsS * FORGET);
  }

  /** Notes that a picture arrived that long before its time; negative: too late, so that it was shown late. */
  noteArrival(aheadS) {
    this.behindS = this.behindS === null ? aheadS : this.behindS + SMOOTH * (aheadS - this.behindS);
    const late = aheadS < 0 && aheadS > -MOST_S ? this.targetS - aheadS : 0;
    this.#latenessS = Math.min(MOST_S, Math.max(late, this.#latenessS * FORGET));
  }

  /** Notes that playback has jumped to the target. */
  jumped() {
    this.behindS = this.targetS;
  }

  /** Returns {rate, jump}: the playback rate for now, and whether to go to the target at once. */
  step() {
    const tooFar = this.behindS - this.targetS;
    if (Math.abs(tooFar) > SEEK_BEYOND_S) return { rate: 1, jump: true };
    if (Math.abs(tooFar) < SLACK_S) return { rate: 1, jump: false };
    if (tooFar > 0) return { rate: tooFar > FAR_S ? 1.25 : 1.06, jump: false };
    return { rate: tooFar < -FAR_S ? 0.75 : 0.94, jump: false };
  }
}
