// Makes elements. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) continue;
    if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Returns an HTML element; `on` holds listeners by event, `data` what goes into its dataset. */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** Returns an SVG element. */
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Returns an icon of icons.svg; it is decoration, the text beside it or the button's name says what it means. */
export const icon = (name) =>
  s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `assets/icons.svg#${name}` }));

/** Returns a button with an icon; without `text` its name is a label for screen readers and a tooltip. */
export function button(iconName, name, click, { text = false, ...attributes } = {}) {
  const label = text ? {} : { "aria-label": name, title: name };
  return h("button", { type: "button", ...label, ...attributes, on: { click } }, iconName && icon(iconName), text && name);
}

/** Text that comes from the program or its user, as a stream's name, and so has no translation. */
export const raw = (text, attributes = {}) => h("span", { translate: "no", ...attributes }, String(text));

/** Sets an element's text only where it changes, so that screen readers and selections are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or removes an attribute only where it changes. */
export function setAttribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Shows what was done, for a few seconds, and to screen readers. */
export function announce(text) {
  const place = document.getElementById("announcements");
  setText(place, text);
  place.hidden = false;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { place.hidden = true; place.textContent = ""; }, 6000);
}
