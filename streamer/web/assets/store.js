// The program's state, as it tells it each second.

import { api, urls } from "./api.js";

const RETRY_MS = [500, 1000, 2000, 4000];

/** What is known of the program. Events: `state`, `connection`, `clip`, `recording`. */
class Store extends EventTarget {
  state = null;
  isConnected = true;
  #source = null;
  #attempt = 0;
  #timer = 0;

  /** Listens to the program until `stop`; a lost connection is tried again. */
  start() {
    this.stop();
    const source = new EventSource(urls.events());
    this.#source = source;
    source.addEventListener("state", (event) => {
      this.state = JSON.parse(event.data);
      this.#attempt = 0;
      this.#setConnected(true);
      this.dispatchEvent(new Event("state"));
    });
    for (const kind of ["clip", "recording"]) {
      source.addEventListener(kind, () => this.dispatchEvent(new Event(kind)));
    }
    source.addEventListener("error", () => this.#retry());
  }

  stop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  stream(name) {
    return this.state?.streams.find((each) => each.name === name) ?? null;
  }

  async #retry() {
    this.stop();
    try {
      await api.streams(); // tells a login that has run out from a program that is away
    } catch (error) {
      if (error.status === 401) return;
      this.#setConnected(false);
    }
    this.#timer = setTimeout(() => this.start(), RETRY_MS[Math.min(this.#attempt++, RETRY_MS.length - 1)]);
  }

  #setConnected(isConnected) {
    if (this.isConnected === isConnected) return;
    this.isConnected = isConnected;
    this.dispatchEvent(new Event("connection"));
  }
}

export const store = new Store();
