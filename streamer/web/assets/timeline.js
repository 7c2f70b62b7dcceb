// What was recorded over a day, as bars on a scale of hours, and the newest clips with their pictures.

import { api, urls } from "./api.js";
import { button, h, icon, raw, s, setText } from "./dom.js";
import { bytes, clock, day, duration, exactClock, t } from "./i18n.js";
import { choice, emptyState, errorText } from "./parts.js";
import { openPlayback } from "./playback.js";
import { store } from "./store.js";

const DAY_MS = 86400000;
const SPANS = { 24: DAY_MS, 6: DAY_MS / 4, 1: DAY_MS / 24 };
const [WIDTH, ROW, AXIS] = [1000, 22, 18];
const LEAST_PX = 3;

const startOfDay = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate());

function spanOf(item) {
  const begin = Date.parse(item.begin_utc);
  return [begin, item.end_utc ? Date.parse(item.end_utc) : begin + 1000 * (item.duration_s ?? 0)];
}

const nameOf = (item) => {
  const [begin, end] = spanOf(item);
  const what = item.labels?.length ? item.labels.join(", ") : t("recording");
  return t("item.name", { what, source: item.source, time: exactClock(new Date(begin)), length: duration((end - begin) / 1000) });
};

/** Bars of one stream. Left and Right go from one to the next, Enter opens. */
function bars(items, fromMs, spanMs, open) {
  const x = (ms) => ((ms - fromMs) / spanMs) * WIDTH;
  const rowOf = { recordings: 0, clips: 1 };
  const marks = items.map((item) => {
    const [begin, end] = spanOf(item);
    const [left, right] = [Math.max(0, x(begin)), Math.min(WIDTH, x(end))];
    return s("rect", {
      class: `bar ${item.kind}`, x: left, y: rowOf[item.kind] * ROW + 3, width: Math.max(LEAST_PX, right - left), height: ROW - 6, rx: 2,
      role: "button", tabindex: "-1", "aria-label": nameOf(item),
      on: { click: () => open(item), keydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(item); } } },
    }, s("title", {}, nameOf(item)));
  });
  marks.at(-1)?.setAttribute("tabindex", "0");
  const ticks = [];
  const step = spanMs / 6;
  for (let ms = fromMs; ms <= fromMs + spanMs; ms += step) {
    ticks.push(s("line", { class: "rule", x1: x(ms), x2: x(ms), y1: 0, y2: ROW * 2 }));
  }
  const svg = s("svg", { class: "bars", viewBox: `0 0 ${WIDTH} ${ROW * 2}`, preserveAspectRatio: "none", role: "group", "aria-label": t("timeline.keys"),
    on: { keydown: (event) => {
      const at = marks.indexOf(document.activeElement);
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1 }[event.key];
      if (next === undefined || !marks[next]) return;
      event.preventDefault();
      marks[at]?.setAttribute("tabindex", "-1");
      marks[next].setAttribute("tabindex", "0");
      marks[next].focus();
    } } }, ticks, marks);
  const axis = h("div", { class: "bars-axis", "aria-hidden": "true" });
  for (let index = 0; index < 6; index += 1) axis.append(h("span", {}, clock(new Date(fromMs + index * step))));
  return h("div", { class: "bars-frame" }, svg, axis);
}

function clipCard(clip, open) {
  const [begin, end] = spanOf(clip);
  return h("li", {}, h("button", { type: "button", class: "clip", data: { id: clip.id }, "aria-label": nameOf(clip), on: { click: () => open(clip) } },
    clip.has_snapshot ? h("img", { src: urls.clipSnapshot(clip.id), alt: "", loading: "lazy" }) : h("span", { class: "no-picture" }, icon("film")),
    h("span", { class: "clip-length" }, duration((end - begin) / 1000)),
    h("span", { class: "clip-caption" }, raw(clip.labels.join(", ")), h("span", { class: "help" }, raw(clip.source), " ", exactClock(new Date(begin))))));
}

function recordingRow(item, open) {
  const [begin, end] = spanOf(item);
  return h("li", {}, h("button", { type: "button", class: "row", data: { id: item.id }, "aria-label": nameOf(item), on: { click: () => open(item) } }, icon("film"),
    h("span", {}, raw(item.source)), h("span", {}, `${exactClock(new Date(begin))} – ${exactClock(new Date(end))}`),
    h("span", { class: "help" }, item.is_open ? t("recording.open") : bytes(item.size_bytes))));
}

/** Returns {element}: what was recorded of one stream, or of all of them where `stream` is null. */
export function timeline({ stream, signal }) {
  let date = startOfDay(new Date());
  let hours = "24";
  let label = "";
  let source = stream;
  const when = h("span", { class: "day", role: "status" });
  const place = h("div", { class: "bars-list" });
  const clipList = h("ul", { class: "clips", "aria-label": t("clips") });
  const rows = h("ul", { class: "rows", "aria-label": t("recordings") });
  const note = h("div", {});
  const next = button("next", t("day.next"), () => move(1));
  const filter = h("input", { type: "search", placeholder: t("label.filter"), "aria-label": t("label.filter"),
    on: { change: () => { label = filter.value.trim(); load(); } } });
  const sources = stream === null && choice(t("stream"), "", [["", t("streams.every")], ...(store.state?.streams ?? []).map(({ name }) => [name, name])],
    (value) => { source = value || null; load(); });
  const element = h("section", { class: "card recorded", "aria-label": t("recorded") },
    h("div", { class: "toolbar" }, stream !== null && h("h2", {}, t("recorded")), h("span", { class: "spacer" }), sources, filter,
      choice(t("span"), hours, Object.keys(SPANS).map((each) => [each, t("span.hours", { n: Number(each) })]), (value) => { hours = value; load(); }),
      h("span", { class: "day-choice" }, button("back", t("day.previous"), () => move(-1)), when, next)),
    place, note, clipList, rows);

  function move(days) {
    date = new Date(date.getFullYear(), date.getMonth(), date.getDate() + days);
    load();
  }

  const focusOn = (id) => id && element.querySelector(`button[data-id="${CSS.escape(id)}"]`)?.focus();
  const open = (item) => openPlayback(item, { signal, removed: load, closed: () => focusOn(item.id) });

  async function load() {
    const isToday = date.getTime() === startOfDay(new Date()).getTime();
    const spanMs = SPANS[hours];
    const untilMs = isToday ? Math.ceil(Date.now() / (spanMs / 24)) * (spanMs / 24) : date.getTime() + DAY_MS;
    const fromMs = untilMs - spanMs;
    setText(when, isToday ? t("day.today") : day(date));
    next.disabled = isToday;
    const wanted = { source, from: new Date(fromMs).toISOString(), to: new Date(untilMs).toISOString() };
    let [recordings, clips] = [[], []];
    try {
      [recordings, clips] = await Promise.all([api.recordings({ ...wanted, limit: 200 }), api.clips({ ...wanted, label, limit: 200 })]);
    } catch (error) {
      if (!signal.aborted) note.replaceChildren(h("p", { class: "error" }, errorText(error)));
      return;
    }
    if (signal.aborted) return;
    const items = [...recordings.map((each) => ({ ...each, kind: "recordings" })), ...clips.map((each) => ({ ...each, kind: "clips" }))]
      .map((each) => ({ ...each, source: each.source ?? t("streams.every") }))
      .sort((a, b) => Date.parse(a.begin_utc) - Date.parse(b.begin_utc));
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const names = [...new Set(items.map((each) => each.source))].sort();
    place.replaceChildren(...names.map((each) => h("div", { class: "bars-row" }, stream === null && raw(each, { class: "bars-name" }),
      bars(items.filter((item) => item.source === each), fromMs, spanMs, open))));
    clipList.replaceChildren(...items.filter((each) => each.kind === "clips").reverse().map((each) => clipCard(each, open)));
    rows.replaceChildren(...items.filter((each) => each.kind === "recordings").reverse().map((each) => recordingRow(each, open)));
    note.replaceChildren(...(items.length ? [h("ul", { class: "legend" }, h("li", {}, h("span", { class: "swatch of-recordings" }), t("recordings")),
      h("li", {}, h("span", { class: "swatch of-clips" }), t("clips")))] : [emptyState("film", t("recorded.none"), t("recorded.none_help"))]));
    focusOn(focused); // lists are made anew
  }

  for (const kind of ["clip", "recording"]) store.addEventListener(kind, load, { signal });
  load();
  return { element };
}

/** Shows what was recorded of all streams in `main`. */
export function recordedView(main, { signal }) {
  const heading = h("h1", { tabindex: "-1" }, t("recorded"));
  const { element } = timeline({ stream: null, signal });
  main.append(h("div", { class: "toolbar" }, heading), element);
  return heading;
}
