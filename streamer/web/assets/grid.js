// All streams at once.

import { button, h, icon, raw, setText } from "./dom.js";
import { milliseconds, t } from "./i18n.js";
import { countChips, emptyState, fps, stateBadge } from "./parts.js";
import "./player.js";
import { prefs, setPref } from "./prefs.js";
import { store } from "./store.js";
import { addStreamDialog } from "./stream_form.js";

const NARROWEST_PX = 250;
const GAP_PX = 8;
const CAPTION_PX = 62;

/** Returns in how many columns that many 16:9 pictures are largest without scrolling, and their width; null: all there is. */
export function columnsFor(count, widthPx, heightPx) {
  const most = Math.max(1, Math.floor((widthPx + GAP_PX) / (NARROWEST_PX + GAP_PX)));
  let best = { columns: Math.min(count, most), width: 0 };
  for (let columns = 1; columns <= Math.min(count, most); columns += 1) {
    const rows = Math.ceil(count / columns);
    const byWidth = (widthPx - GAP_PX * (columns - 1)) / columns;
    const byHeight = (((heightPx - GAP_PX * (rows - 1)) / rows - CAPTION_PX) * 16) / 9;
    const width = Math.min(byWidth, byHeight);
    if (width > best.width) best = { columns, width };
  }
  return best.width >= NARROWEST_PX ? best : { columns: Math.min(count, most), width: null };
}

function tile(name) {
  const badge = stateBadge();
  const chips = countChips(4);
  const rate = h("span");
  const player = h("live-player", { name });
  const address = `#/stream/${encodeURIComponent(name)}`;
  const element = h("li", { class: "tile" },
    h("a", { class: "tile-picture", href: address, "aria-hidden": "true", tabindex: "-1" }, player),
    h("div", { class: "tile-caption" },
      h("a", { class: "tile-name", href: address }, raw(name)), badge.element,
      h("span", { class: "tile-rate" }, rate)),
    chips.element);
  const update = (stream) => {
    badge.update(stream);
    chips.update(stream.counts);
    const text = stream.latency_ms
      ? t("tile.rate_latency", { fps: fps(stream.fps_processed), latency: milliseconds(stream.latency_ms.p95) })
      : t("tile.rate", { fps: fps(stream.fps_processed) });
    setText(rate, stream.state === "running" ? text : "");
  };
  return { element, update };
}

/** Shows the view in `main` until `signal` is aborted. */
export function gridView(main, { signal }) {
  const tiles = new Map();
  const heading = h("h1", { tabindex: "-1" }, t("live"));
  const boxes = button("boxes", t("boxes"), () => setPref("boxes", !prefs.boxes), { text: true, class: "toggle", "aria-pressed": prefs.boxes });
  const list = h("ul", { class: "grid", "aria-label": t("streams") });
  const empty = h("div");
  main.append(
    h("div", { class: "toolbar" }, heading, h("span", { class: "spacer" }), boxes,
      button("add", t("stream.add"), () => addStreamDialog(signal), { text: true })),
    list, empty);

  const arrange = () => {
    const heightPx = window.innerHeight - list.getBoundingClientRect().top - window.scrollY - 12;
    const { columns, width } = columnsFor(Math.max(1, tiles.size), list.clientWidth, heightPx);
    list.style.setProperty("--columns", columns);
    list.style.setProperty("--tile", width === null ? "1fr" : `${Math.floor(width)}px`);
  };
  const update = () => {
    const streams = store.state?.streams ?? [];
    for (const stream of streams) {
      if (!tiles.has(stream.name)) {
        tiles.set(stream.name, tile(stream.name));
        list.append(tiles.get(stream.name).element);
      }
      tiles.get(stream.name).update(stream);
    }
    for (const [name, { element }] of tiles) {
      if (streams.some((each) => each.name === name)) continue;
      element.remove();
      tiles.delete(name);
    }
    list.hidden = streams.length === 0;
    if (streams.length) empty.replaceChildren();
    else if (store.state && !empty.hasChildNodes()) {
      empty.append(emptyState("camera", t("streams.none"), t("streams.none_help"),
        button("add", t("stream.add"), () => addStreamDialog(signal), { text: true, class: "primary" })));
    }
    if (!store.state) empty.replaceChildren(h("p", { class: "loading" }, icon("wait"), t("loading")));
    else empty.querySelector(".loading")?.remove();
    arrange();
  };
  store.addEventListener("state", update, { signal });
  window.addEventListener("resize", arrange, { signal });
  window.addEventListener("prefs", () => boxes.setAttribute("aria-pressed", prefs.boxes), { signal });
  update();
  return heading;
}
