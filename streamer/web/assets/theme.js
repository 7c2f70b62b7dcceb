// Runs before the page is drawn, so that a chosen theme doesn't flash. prefs.js keeps it.
try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("nanodet-streamer") ?? "{}").theme ?? "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
