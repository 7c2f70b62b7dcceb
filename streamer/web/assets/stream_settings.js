// What is detected and shown of one stream: changed at once, and said whether it is kept.

import { api } from "./api.js";
import { labels } from "./classes.js";
import { button, h, raw, setAttribute, setText } from "./dom.js";
import { percent, t } from "./i18n.js";
import { errorText, swatch, toggle } from "./parts.js";

const ALL = "*";
const DEBOUNCE_MS = 200;
const UNKNOWN_SCORE = 0.4;

/** Scores by class, "*" for all others, from either form in which the program tells them. */
const scoresOf = (conf) => (typeof conf === "object" && conf !== null ? { [ALL]: UNKNOWN_SCORE, ...conf } : { [ALL]: conf ?? UNKNOWN_SCORE });

function slider(name, value, change, { isRaw = false, label = name } = {}) {
  const output = h("output", {}, percent(value));
  const input = h("input", {
    type: "range", min: "0.01", max: "0.99", step: "0.01", value, "aria-label": label,
    on: { input: () => { setText(output, percent(Number(input.value))); change(Number(input.value)); } },
  });
  return h("div", { class: "slider" }, h("span", { class: "slider-name" }, isRaw ? [swatch(name), raw(name)] : name), input, output);
}

/** Returns {element, update(stream)}. What a person is changing is not overwritten by what the program tells. */
export function settingsPanel(name) {
  const status = h("p", { class: "help", role: "status" });
  const scores = h("div", { class: "sliders" });
  const classList = h("div", { class: "class-list", role: "group", "aria-label": t("classes") });
  const summary = h("summary", {});
  const search = h("input", { type: "search", placeholder: t("classes.search"), "aria-label": t("classes.search"), on: { input: () => filter() } });
  const overlay = toggle(t("overlay"), false, (isOn) => send({ overlay: isOn }));
  const pick = h("select", { "aria-label": t("conf.add"), on: { change: () => addScore(pick.value) } });
  let shown = null; // what the program told last, as JSON
  let conf = { [ALL]: UNKNOWN_SCORE };
  let chosen = []; // labels; none means all
  let waiting = {};
  let timer = 0;
  let busyUntil = 0;

  function send(changes) {
    Object.assign(waiting, changes);
    busyUntil = Infinity;
    clearTimeout(timer);
    timer = setTimeout(flush, DEBOUNCE_MS);
  }

  async function flush() {
    const changes = waiting;
    waiting = {};
    try {
      const { notices } = await api.changeStream(name, changes);
      const { kept_in: file } = await api.settings();
      setText(status, file === null ? t("kept.run") : [t("kept.in", { file }), ...notices].join(" "));
      status.classList.remove("error");
      busyUntil = performance.now() + 1500;
    } catch (error) {
      setText(status, errorText(error));
      status.classList.add("error");
      busyUntil = 0;
      shown = null; // show what the program has instead
    }
  }

  const sendConf = () => send({ conf: Object.keys(conf).length === 1 ? conf[ALL] : { ...conf } });

  function setScore(label, value) {
    conf = { ...conf, [label]: value };
    sendConf();
  }

  function addScore(label) {
    if (!label) return;
    setScore(label, conf[ALL]);
    drawScores();
    scores.querySelector(`[data-label="${CSS.escape(label)}"] input`).focus();
  }

  function removeScore(label) {
    const { [label]: _, ...rest } = conf;
    conf = rest;
    sendConf();
    drawScores();
    pick.focus();
  }

  function drawScores() {
    const single = Object.keys(conf).filter((label) => label !== ALL).sort();
    scores.replaceChildren(
      slider(single.length ? t("conf.others") : t("conf"), conf[ALL], (value) => setScore(ALL, value), { label: t("conf") }),
      ...single.map((label) => h("div", { class: "slider-row", data: { label } },
        slider(label, conf[label], (value) => setScore(label, value), { isRaw: true, label: t("conf.of", { label }) }),
        button("close", t("conf.remove", { label }), () => removeScore(label)))));
    pick.replaceChildren(h("option", { value: "" }, t("conf.add")),
      ...labels().filter((label) => !(label in conf)).map((label) => h("option", { value: label, translate: "no" }, label)));
  }

  function drawClasses() {
    classList.replaceChildren(...labels().map((label) => {
      const input = h("input", { type: "checkbox", checked: chosen.includes(label), on: { change: () => chooseClass(label, input.checked) } });
      return h("label", { data: { label } }, input, swatch(label), raw(label));
    }));
    drawSummary();
    filter();
  }

  function drawSummary() {
    setText(summary, chosen.length ? t("classes.some", { n: chosen.length }) : t("classes.all"));
    setAttribute(reset, "disabled", chosen.length === 0);
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    for (const row of classList.children) row.hidden = !row.dataset.label.toLowerCase().includes(wanted);
  }

  function chooseClass(label, isOn) {
    chosen = isOn ? [...chosen, label] : chosen.filter((each) => each !== label);
    send({ classes: chosen.length ? chosen : [ALL] });
    drawSummary();
  }

  const reset = button(null, t("classes.reset"), () => { chosen = []; send({ classes: [ALL] }); drawClasses(); search.focus(); }, { text: true });

  function update(stream) {
    if (performance.now() < busyUntil) return;
    const told = JSON.stringify([stream.conf, stream.classes, stream.overlay, labels().length]);
    if (told === shown) return;
    shown = told;
    conf = scoresOf(stream.conf);
    chosen = (stream.classes ?? []).filter((label) => label !== ALL);
    overlay.querySelector("input").checked = stream.overlay ?? false;
    drawScores();
    drawClasses();
  }

  const element = h("section", { class: "card settings", "aria-label": t("settings.stream") },
    h("h2", {}, t("settings.stream")), scores, pick,
    h("details", {}, summary, search, classList, reset),
    overlay, status);
  return { element, update };
}
