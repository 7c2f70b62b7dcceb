// The last ten minutes as lines: rate, latency, objects by class.

import { api } from "./api.js";
import { colourOfLabel } from "./classes.js";
import { h, raw, s, setText } from "./dom.js";
import { clock, duration, number, t } from "./i18n.js";

const SPAN_S = 600;
const STEP_MS = 2000;
const GAP_MS = 8000; // points farther apart than this aren't joined
const MOST_CLASSES = 4;
const HEIGHT = 128;
const [LEFT, RIGHT, TOP, BOTTOM] = [42, 10, 8, 20];

/** Returns the least "round" number (1, 2, 5 times a power of ten) that is at least `value`. */
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= value * (1 - 1e-9));
}

/** One panel with one axis. `series` are {name, colour, value(point)}. */
function panel(title, unitName) {
  const svg = s("svg", { class: "chart", role: "img" });
  const legend = h("ul", { class: "legend" });
  const element = h("figure", { class: "panel" }, h("figcaption", {}, title, unitName && h("span", { class: "help" }, unitName)), svg, legend);

  const draw = (points, series, endMs) => {
    const width = Math.max(220, svg.clientWidth || 320);
    const inner = [width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM];
    const most = Math.max(0, ...points.flatMap((point) => series.map(({ value }) => value(point) ?? 0)));
    const step = Math.max(roundUp(most / 4 || 0.25), most <= 4 ? 1 : 0);
    const top = Math.max(step, Math.ceil(most / step) * step);
    const x = (ms) => LEFT + inner[0] * (1 - (endMs - ms) / (SPAN_S * 1000));
    const y = (value) => TOP + inner[1] * (1 - value / top);
    const marks = [];
    for (let value = 0; value <= top + step / 2; value += step) {
      marks.push(s("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        s("text", { x: LEFT - 6, y: y(value), class: "tick-y" }, number(value, step < 1 ? 1 : 0)));
    }
    const everyMs = (width < 420 ? 5 : 2) * 60000;
    for (let ms = Math.ceil((endMs - SPAN_S * 1000) / everyMs) * everyMs; ms <= endMs; ms += everyMs) {
      if (x(ms) > width - 18) continue;
      marks.push(s("line", { class: "rule", x1: x(ms), x2: x(ms), y1: TOP, y2: HEIGHT - BOTTOM }),
        s("text", { x: x(ms), y: HEIGHT - 5, class: "tick-x" }, clock(new Date(ms))));
    }
    const lines = series.map(({ name, colour, value }) => {
      let path = "";
      let before = null;
      for (const point of points) {
        const height = value(point);
        if (height === null || height === undefined) { before = null; continue; }
        path += `${before !== null && point.ms - before < GAP_MS ? "L" : "M"}${x(point.ms).toFixed(1)} ${y(height).toFixed(1)}`;
        before = point.ms;
      }
      return s("path", { class: "line", d: path, stroke: colour, "data-series": name });
    });
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren(...marks, ...lines);
    const last = points[points.length - 1];
    svg.setAttribute("aria-label", [title, ...series.map(({ name, value }) => `${name} ${number(last ? value(last) : null, 1)}`)].join(", "));
    legend.hidden = !series.some(({ isLabel }) => isLabel);
    const names = series.map(({ name }) => name).join();
    if (legend.dataset.names === names) return;
    legend.dataset.names = names;
    legend.replaceChildren(...series.map(({ name, colour }) => {
      const key = h("span", { class: "swatch" });
      key.style.background = colour;
      return h("li", {}, key, raw(name));
    }));
  };
  return { element, draw };
}

/** Returns {element, add(timeUtc, stream)}: the chart of one stream. */
export function historyChart(name, { signal }) {
  const panels = {
    rate: panel(t("chart.rate"), t("unit.fps")),
    latency: panel(t("chart.latency"), t("unit.ms")),
    counts: panel(t("chart.counts"), ""),
  };
  const note = h("p", { class: "help" });
  const element = h("section", { class: "card", "aria-label": t("chart") },
    h("h2", {}, t("chart")), note, h("div", { class: "panels" }, Object.values(panels).map((each) => each.element)));
  let points = [];

  const draw = () => {
    const newest = points[points.length - 1]?.ms ?? Date.now();
    points = points.filter((point) => point.ms > newest - SPAN_S * 1000);
    const totals = new Map();
    for (const { counts } of points) {
      for (const [label, n] of Object.entries(counts)) totals.set(label, (totals.get(label) ?? 0) + n);
    }
    const labels = [...totals].sort(([, m], [, n]) => n - m).slice(0, MOST_CLASSES).map(([label]) => label).sort();
    panels.rate.draw(points, [{ name: t("chart.rate"), colour: "var(--accent)", value: (point) => point.fps }], newest);
    panels.latency.draw(points, [{ name: t("latency.p95"), colour: "var(--warn)", value: (point) => point.latency_p95_ms }], newest);
    panels.counts.draw(points, labels.map((label) => ({
      name: label, isLabel: true, colour: colourOfLabel(label), value: (point) => point.counts[label] ?? 0,
    })), newest);
    const span = points.length > 1 ? (newest - points[0].ms) / 1000 : 0;
    setText(note, span > SPAN_S - 20 ? "" : t("chart.since", { time: duration(span) }));
  };
  const add = (timeUtc, stream) => {
    const ms = Date.parse(timeUtc);
    if (points.length && ms - points[points.length - 1].ms < STEP_MS) return;
    points.push({ ms, fps: stream.fps_processed, latency_p95_ms: stream.latency_ms?.p95 ?? null, counts: stream.counts ?? {} });
    draw();
  };
  api.history(name).then((past) => {
    const earliest = points[0]?.ms ?? Infinity;
    points = [...past.map((point) => ({ ...point, ms: Date.parse(point.t_utc) })).filter((point) => point.ms < earliest), ...points];
    draw();
  }).catch(() => draw());
  const sized = new ResizeObserver(draw);
  sized.observe(panels.rate.element);
  signal.addEventListener("abort", () => sized.disconnect());
  return { element, add };
}
