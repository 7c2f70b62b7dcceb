// Live pictures as JPEG, one after another in an image element: works in every browser, boxes already drawn.

import { urls } from "./api.js";

const FIRST_PICTURE_MS = 10000;

/** One connection that shows one stream in an image element. */
export class MjpegTransport {
  static isSupported = () => true;

  /** `hooks` as of MseTransport. */
  constructor(image, name, _view, hooks) {
    Object.assign(this, { image, name, hooks, format: null });
  }

  #timer = 0;

  start() {
    this.image.onload = () => clearTimeout(this.#timer);
    this.image.onerror = () => this.#fail("image");
    this.#timer = setTimeout(() => this.#fail("time"), FIRST_PICTURE_MS);
    this.load(this.hooks.hasBoxes());
  }

  /** Asks for pictures with or without boxes. */
  load(hasBoxes) {
    const width = Math.round(Math.min(1920, Math.max(320, this.image.clientWidth * (window.devicePixelRatio || 1))));
    this.image.src = urls.mjpeg(this.name, { boxes: hasBoxes ? 1 : 0, fps: 15, width });
  }

  close() {
    clearTimeout(this.#timer);
    this.image.onload = this.image.onerror = null;
    this.image.removeAttribute("src");
  }

  get behindS() {
    return null;
  }

  #fail(reason) {
    this.close();
    this.hooks.onFailure(reason, false);
  }
}
