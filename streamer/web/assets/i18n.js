// Texts, numbers and times in the reader's language.

import { prefs } from "./prefs.js";

export const LANGUAGES = { en: "English", zh: "中文" };

let words = {};
let locale = "en";

/** Returns the language to show: the one chosen, else the first of the browser's that there is. */
export function chosenLanguage() {
  if (prefs.language in LANGUAGES) return prefs.language;
  const wanted = navigator.languages.map((each) => each.split("-")[0]);
  return wanted.find((each) => each in LANGUAGES) ?? "en";
}

/** Loads a language's texts; numbers and times follow the browser's region where it speaks that language. */
export async function loadLanguage(language) {
  const answer = await fetch(`assets/${language}.json`);
  words = await answer.json();
  locale = navigator.languages.find((each) => each.split("-")[0] === language) ?? (language === "zh" ? "zh-CN" : "en");
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    element.title = t(element.dataset.tLabel);
  }
}

/** Returns the text of a key. `{name}` is replaced by that value; with `n`, the form for that number is taken. */
export function t(key, values = {}) {
  let text = words[key] ?? key;
  if (typeof text === "object") text = text[new Intl.PluralRules(locale).select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : value ?? whole;
  });
}

/** A number with that many digits after the point; a dash for none. */
export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const percent = (value) => value.toLocaleString(locale, { style: "percent" });

const unit = (value, name, digits = 0, display = "short") =>
  value.toLocaleString(locale, {
    style: "unit", unit: name, unitDisplay: display, minimumFractionDigits: digits, maximumFractionDigits: digits,
  });

export const milliseconds = (value) => (Number.isFinite(value ?? NaN) ? unit(value, "millisecond") : "–");

/** A length of time in its two largest units. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  const parts = [[days, "day"], [hours, "hour"], [minutes, "minute"], [whole % 60, "second"]];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return unit(0, "second", 0, "narrow");
  return parts.slice(first, first + 2).filter(([value]) => value > 0).map(([value, name]) => unit(value, name, 0, "narrow")).join(" ");
}

/** A size of a file. */
export function bytes(value) {
  if (value < 1e6) return unit(value / 1e3, "kilobyte");
  return value < 1e9 ? unit(value / 1e6, "megabyte", 1) : unit(value / 1e9, "gigabyte", 2);
}

export const clock = (date, options = {}) =>
  date.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit", ...options });
export const exactClock = (date) => clock(date, { second: "2-digit" });
export const day = (date) => date.toLocaleDateString(locale, { weekday: "short", day: "numeric", month: "short" });
