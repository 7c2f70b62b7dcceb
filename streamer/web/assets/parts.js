// Small pieces that several views show.

import { colourOfLabel } from "./classes.js";
import { button, h, icon, raw, setText } from "./dom.js";
import { duration, milliseconds, number, t } from "./i18n.js";

const STATE_ICONS = {
  running: "dot", connecting: "wait", reconnecting: "wait", ended: "stop", failed: "warning",
};

/** A stream's state in words and a sign, not by colour alone. Returns {element, update(stream)}. */
export function stateBadge() {
  const sign = h("span", { class: "badge-sign" });
  const words = h("span");
  const element = h("span", { class: "badge" }, sign, words);
  const update = (stream) => {
    if (element.dataset.state !== stream.state) {
      element.dataset.state = stream.state;
      sign.replaceChildren(icon(STATE_ICONS[stream.state] ?? "dot"));
    }
    const isLost = stream.state === "reconnecting" && stream.lost_s !== null;
    setText(words, isLost ? t("state.reconnecting_for", { time: duration(stream.lost_s) }) : t(`state.${stream.state}`));
  };
  return { element, update };
}

/** Counts of objects by class, each with its class's colour. Returns {element, update(counts)}. */
export function countChips(most = Infinity) {
  const element = h("ul", { class: "chips", "aria-label": t("counts") });
  let shown = "";
  const update = (counts) => {
    const sorted = Object.entries(counts ?? {}).sort(([a, m], [b, n]) => n - m || a.localeCompare(b));
    const key = JSON.stringify(sorted);
    if (key === shown) return;
    shown = key;
    const rest = sorted.length - most;
    element.replaceChildren(
      ...sorted.slice(0, most).map(([label, n]) => h("li", {}, swatch(label), raw(label), " ", h("b", {}, number(n)))),
      ...(rest > 0 ? [h("li", {}, t("counts.more", { n: rest }))] : []),
    );
  };
  return { element, update };
}

/** A square in a class's colour. */
export function swatch(label) {
  const element = h("span", { class: "swatch", "aria-hidden": "true" });
  element.style.background = colourOfLabel(label);
  return element;
}

/** Name and value pairs. Returns {element, update(values)}; `rows` are {key, value(stream)}. */
export function figures(rows) {
  const cells = rows.map(({ key }) => ({ key, cell: h("dd") }));
  const element = h("dl", { class: "figures" }, cells.map(({ key, cell }) => h("div", {}, h("dt", {}, t(key)), cell)));
  const update = (stream) => rows.forEach(({ value }, index) => setText(cells[index].cell, value(stream)));
  return { element, update };
}

export const fps = (value) => number(value, value < 10 ? 1 : 0);

export const latency = (stream) =>
  stream.latency_ms ? `${milliseconds(stream.latency_ms.p50)} / ${milliseconds(stream.latency_ms.p95)}` : "–";

/** What a place says that has nothing to show, and what to do about it. */
export const emptyState = (iconName, title, help, ...actions) =>
  h("div", { class: "empty" }, icon(iconName), h("h2", {}, title), h("p", {}, help), actions);

/** An error of a request, in words: the program's own, or that it can't be reached. */
export const errorText = (error) => (error.status === 0 ? t("error.unreachable") : t("error.refused", { message: error.message }));

/** A choice among a few, with its label. */
export function choice(name, value, options, change, attributes = {}) {
  const select = h("select", { ...attributes, on: { change: () => change(select.value) } },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  return h("label", { class: "field" }, h("span", {}, name), select);
}

/** A switch with its label. */
export function toggle(name, isOn, change) {
  const input = h("input", { type: "checkbox", role: "switch", checked: isOn, on: { change: () => change(input.checked) } });
  return h("label", { class: "switch" }, input, h("span", {}, name));
}

/** Opens a dialog with a title; Escape and its button close it, and focus goes back. Returns the dialog. */
export function openDialog(title, content, { wide = false, signal = null } = {}) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": "dialog-title" },
    h("header", {}, heading, button("close", t("close"), () => dialog.close())), content);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  signal?.addEventListener("abort", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks before something is removed for good; returns whether to do it. */
export function confirmed(title, text, action) {
  return new Promise((done) => {
    const yes = button(null, action, () => { done(true); dialog.close(); }, { text: true, class: "danger" });
    const no = button(null, t("cancel"), () => dialog.close(), { text: true, autofocus: true });
    const dialog = openDialog(title, h("div", {}, h("p", {}, text), h("div", { class: "actions" }, no, yes)));
    dialog.addEventListener("close", () => done(false));
  });
}
