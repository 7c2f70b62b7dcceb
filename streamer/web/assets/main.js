// Starts the page: language, login, the view that the address names.

import { api } from "./api.js";
import { loadClasses } from "./classes.js";
import { h, setText } from "./dom.js";
import { gridView } from "./grid.js";
import { chosenLanguage, duration, LANGUAGES, loadLanguage, t } from "./i18n.js";
import { loginView } from "./login.js";
import { choice, openDialog } from "./parts.js";
import { applyTheme, prefs, setPref } from "./prefs.js";
import { store } from "./store.js";
import { streamView } from "./stream.js";
import { recordedView } from "./timeline.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
let leaving = new AbortController();
let isLoginShown = false;

function route() {
  const [, place = "", name = ""] = location.hash.split("/");
  if (place === "stream" && name) return { place: "live", show: streamView, name: decodeURIComponent(name) };
  if (place === "recorded") return { place, show: recordedView };
  return { place: "live", show: gridView };
}

/** Shows the view of the address; after a click on a link the focus goes to its heading. */
function show({ focus = false } = {}) {
  leaving.abort();
  leaving = new AbortController();
  main.replaceChildren();
  document.body.classList.toggle("logged-out", isLoginShown);
  if (isLoginShown) {
    loginView(main, enter);
    return;
  }
  const { place, show: view, name } = route();
  for (const link of document.querySelectorAll("[data-place]")) {
    if (link.dataset.place === place) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = view(main, { signal: leaving.signal, name });
  if (focus) heading.focus();
  window.scrollTo(0, 0);
}

async function enter() {
  try {
    await loadClasses();
  } catch (error) {
    if (error.status === 401) return;
  }
  isLoginShown = false;
  store.start();
  show();
}

function askForToken() {
  if (isLoginShown) return;
  isLoginShown = true;
  store.stop();
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  show();
}

function preferences() {
  const language = choice(t("language"), prefs.language, [["auto", t("language.auto")], ...Object.entries(LANGUAGES)],
    (value) => { setPref("language", value); loadLanguage(chosenLanguage()).then(() => { dialog.close(); show(); tellConnection(); }); });
  const theme = choice(t("theme"), prefs.theme, ["auto", "light", "dark"].map((each) => [each, t(`theme.${each}`)]), (value) => setPref("theme", value));
  const logout = h("button", { type: "button", hidden: !store.state?.run?.has_token, on: { click: () => api.logout().finally(() => { dialog.close(); askForToken(); }) } }, t("logout"));
  const dialog = openDialog(t("preferences"), h("div", { class: "stack" }, theme, language, h("p", { class: "help" }, t("preferences.help")), logout));
}

function tellConnection() {
  banner.hidden = store.isConnected;
  setText(banner, store.isConnected ? "" : t("connection.lost"));
}

function tellRun() {
  loadClasses().catch(() => {}); // where the program had none at the start
  const { run } = store.state;
  const parts = [run.engine, run.precision].filter(Boolean).join(" · ");
  setText(document.getElementById("run"), parts ? t("run.summary", { engine: parts, time: duration(run.uptime_s ?? 0) }) : "");
}

async function begin() {
  applyTheme();
  await loadLanguage(chosenLanguage());
  document.getElementById("preferences").addEventListener("click", preferences);
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  window.addEventListener("unauthorized", askForToken);
  window.addEventListener("hashchange", () => show({ focus: true }));
  store.addEventListener("connection", tellConnection);
  store.addEventListener("state", tellRun);
  await enter();
}

begin();
