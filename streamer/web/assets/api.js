// Requests to the program. Addresses are relative, so that the page works below a path of a reverse proxy too.

/** A request that was refused: `status` of HTTP (0 without an answer), `message` as the program says it. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const at = (...parts) => parts.map(encodeURIComponent).join("/");

/** Asks the program; raises ApiError. An answer of 401 is told to the window as `unauthorized`. */
async function ask(method, path, body = undefined) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "");
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok) return content;
  if (answer.status === 401 && path !== "login") window.dispatchEvent(new Event("unauthorized"));
  throw new ApiError(answer.status, content?.error?.message ?? String(answer.status));
}

const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== ""));

export const api = {
  login: (token) => ask("POST", "login", { token }),
  logout: () => ask("POST", "logout"),
  streams: () => ask("GET", "streams"),
  stream: (name) => ask("GET", at("streams", name)),
  addStream: (stream) => ask("POST", "streams", stream),
  changeStream: (name, changes) => ask("PATCH", at("streams", name), changes),
  removeStream: (name) => ask("DELETE", at("streams", name)),
  settings: () => ask("GET", "settings"),
  history: (stream) => ask("GET", `history?${query({ stream })}`),
  recordings: (filter) => ask("GET", `recordings?${query(filter)}`),
  clips: (filter) => ask("GET", `clips?${query(filter)}`),
  removeClip: (id) => ask("DELETE", at("clips", id)),
  classes: () => ask("GET", "classes"),
  webrtc: (name, offer) => ask("POST", `${at("streams", name)}/webrtc`, offer),
};

/** Addresses of what the browser loads by itself. */
export const urls = {
  events: () => "api/events",
  snapshot: (name, options) => `api/${at("streams", name)}/snapshot.jpg?${query(options)}`,
  mjpeg: (name, options) => `api/${at("streams", name)}/live.mjpg?${query(options)}`,
  video: (kind, id) => `api/${at(kind, id)}/video`,
  download: (kind, id) => `api/${at(kind, id)}/video?download=1`,
  detections: (kind, id) => `api/${at(kind, id)}/detections.jsonl`,
  clipSnapshot: (id) => `api/${at("clips", id)}/snapshot.jpg`,
  live: (name, options) => {
    const address = new URL(`api/${at("streams", name)}/live?${query(options)}`, document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    return address.href;
  },
};
