// One stream: its picture, its figures, its settings, its last ten minutes and what was recorded.

import { historyChart } from "./chart.js";
import { button, h, icon, raw, setText } from "./dom.js";
import { duration, milliseconds, number, t } from "./i18n.js";
import { choice, countChips, emptyState, figures, fps, latency, stateBadge } from "./parts.js";
import { urls } from "./api.js";
import { MODES } from "./player.js";
import { prefs, setPref } from "./prefs.js";
import { store } from "./store.js";
import { removeStream } from "./stream_form.js";
import { settingsPanel } from "./stream_settings.js";
import { timeline } from "./timeline.js";

const FIGURES = [
  { key: "figure.fps", value: (stream) => `${fps(stream.fps_processed)} / ${fps(stream.fps_captured)}` },
  { key: "figure.latency", value: latency },
  { key: "figure.frames", value: (stream) => number(stream.frames) },
  { key: "figure.dropped", value: (stream) => number(stream.dropped) },
  { key: "figure.reconnects", value: (stream) => number(stream.reconnects) },
  { key: "figure.damaged", value: (stream) => number(stream.damaged) },
  { key: "figure.size", value: (stream) => (stream.size_wh ? stream.size_wh.join(" × ") : "–") },
  { key: "figure.codec", value: (stream) => (stream.codec ? stream.codec.toUpperCase() : "–") },
  { key: "figure.viewers", value: (stream) => number(stream.viewers) },
  { key: "figure.skips", value: (stream) => number(stream.viewer_skips) },
];

function runFigures() {
  return figures([
    { key: "run.engine", value: (run) => [run.engine, run.precision].filter(Boolean).join(" · ") || "–" },
    { key: "run.model", value: (run) => run.model ?? "–" },
    { key: "run.device", value: (run) => run.device ?? "–" },
    { key: "run.uptime", value: (run) => duration(run.uptime_s ?? 0) },
  ]);
}

function pictureTools(name, player) {
  const boxes = button("boxes", t("boxes"), () => setPref("boxes", !prefs.boxes), { text: true, class: "toggle", "aria-pressed": prefs.boxes });
  const frame = player.parentElement;
  const full = button("expand", t("fullscreen"), () => (document.fullscreenElement ? document.exitFullscreen() : frame.requestFullscreen()),
    { hidden: !document.fullscreenEnabled });
  const played = h("span", { class: "help played", role: "status" });
  const view = choice(t("view"), "plain", [["plain", t("view.plain")], ["boxes", t("view.boxes")]],
    (value) => player.setAttribute("view", value));
  const mode = choice(t("mode"), prefs.mode, Object.keys(MODES).map((each) => [each, t(`mode.${each}`)]), (value) => setPref("mode", value));
  const update = () => {
    boxes.setAttribute("aria-pressed", prefs.boxes);
    const behind = player.behindS;
    setText(played, !player.mode ? "" : behind === null ? t(`mode.${player.mode}`)
      : t("mode.behind", { mode: t(`mode.${player.mode}`), time: milliseconds(behind * 1000) }));
  };
  const element = h("div", { class: "picture-tools" }, boxes, view, mode, played, h("span", { class: "spacer" }),
    h("a", { class: "button", href: urls.snapshot(name, { boxes: 1 }), download: `${name}.jpg`, "aria-label": t("snapshot"), title: t("snapshot") }, icon("photo")),
    full);
  return { element, update };
}

/** Shows the view of one stream in `main` until `signal` is aborted. */
export function streamView(main, { signal, name }) {
  const badge = stateBadge();
  const heading = h("h1", { tabindex: "-1" }, raw(name));
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const gone = h("div", { hidden: true }, emptyState("camera", t("stream.gone", { name }), t("stream.gone_help"), h("a", { class: "button", href: "#/" }, t("live"))));
  const player = h("live-player", { name });
  const picture = h("div", { class: "picture" }, player);
  const tools = pictureTools(name, player);
  const chips = countChips();
  const details = figures(FIGURES);
  const run = runFigures();
  const chart = historyChart(name, { signal });
  const settings = settingsPanel(name);
  const recorded = timeline({ stream: name, signal });
  const nobody = h("p", { class: "help" }, t("counts.none"));
  const body = h("div", { class: "stream-view" },
    h("div", { class: "stream-main" }, picture, tools.element, error, chart.element, recorded.element),
    h("aside", { class: "stream-side", "aria-label": t("details") },
      h("section", { class: "card" }, h("h2", {}, t("counts")), chips.element, nobody),
      h("section", { class: "card" }, h("h2", {}, t("details")), details.element),
      settings.element,
      h("section", { class: "card" }, h("h2", {}, t("run")), run.element),
      button("trash", t("stream.remove"), () => removeStream(name), { text: true, class: "danger quiet" })));
  main.append(h("div", { class: "toolbar" },
    h("a", { class: "button", href: "#/", "aria-label": t("back"), title: t("back") }, icon("back")), heading, badge.element), gone, body);

  const update = () => {
    if (!store.state) return;
    const stream = store.stream(name);
    gone.hidden = stream !== null;
    body.hidden = badge.element.hidden = stream === null;
    if (stream === null) return;
    badge.update(stream);
    chips.update(stream.counts);
    nobody.hidden = Object.keys(stream.counts ?? {}).length > 0;
    details.update(stream);
    run.update(store.state.run ?? {});
    settings.update(stream);
    chart.add(store.state.time_utc, stream);
    error.hidden = !stream.error;
    setText(error, stream.error ?? "");
    if (stream.size_wh) picture.style.setProperty("--ratio", stream.size_wh[0] / stream.size_wh[1]);
    tools.update();
  };
  store.addEventListener("state", update, { signal });
  player.addEventListener("mode", tools.update);
  window.addEventListener("prefs", tools.update, { signal });
  update();
  return heading;
}
