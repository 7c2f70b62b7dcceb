// What this browser remembers: only how the page looks, nothing of the program.

const KEY = "nanodet-streamer";
const DEFAULTS = { theme: "auto", language: "auto", boxes: true, mode: "mse" };

function load() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return { ...DEFAULTS }; // storage is blocked, or holds something else
  }
}

export const prefs = load();

/** Changes one preference, keeps it, and tells whoever listens for `prefs` on the window. */
export function setPref(name, value) {
  prefs[name] = value;
  try {
    localStorage.setItem(KEY, JSON.stringify(prefs));
  } catch {
    // it holds until the page is closed
  }
  applyTheme();
  window.dispatchEvent(new CustomEvent("prefs", { detail: name }));
}

export function applyTheme() {
  document.documentElement.dataset.theme = prefs.theme;
}
