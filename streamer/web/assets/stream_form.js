// Adding and removing a stream.

import { api } from "./api.js";
import { announce, button, h } from "./dom.js";
import { t } from "./i18n.js";
import { confirmed, errorText, openDialog } from "./parts.js";

/** Asks for a new stream's name and address, and adds it. */
export function addStreamDialog(signal) {
  const name = h("input", { name: "name", required: true, maxlength: "64", autocomplete: "off", autofocus: true, "aria-describedby": "add-name-help" });
  const uri = h("input", { name: "uri", required: true, maxlength: "2048", autocomplete: "off", spellcheck: "false", inputmode: "url", "aria-describedby": "add-uri-help" });
  const error = h("p", { class: "error", role: "alert" });
  const submit = h("button", { type: "submit", class: "primary" }, t("stream.add"));
  const add = async (event) => {
    event.preventDefault();
    error.textContent = "";
    submit.disabled = true;
    try {
      await api.addStream({ name: name.value.trim(), uri: uri.value.trim() });
      dialog.close();
      announce(t("stream.added", { name: name.value.trim() }));
    } catch (refusal) {
      error.textContent = errorText(refusal);
      submit.disabled = false;
    }
  };
  const form = h("form", { on: { submit: add } },
    h("label", { class: "field" }, h("span", {}, t("stream.name")), name),
    h("p", { class: "help", id: "add-name-help" }, t("stream.name_help")),
    h("label", { class: "field" }, h("span", {}, t("stream.uri")), uri),
    h("p", { class: "help", id: "add-uri-help" }, t("stream.uri_help")),
    error,
    h("div", { class: "actions" }, button(null, t("cancel"), () => dialog.close(), { text: true }), submit));
  const dialog = openDialog(t("stream.add"), form, { signal });
}

/** Removes a stream after a question; goes back to all streams. */
export async function removeStream(name) {
  if (!(await confirmed(t("stream.remove"), t("stream.remove_question", { name }), t("stream.remove")))) return;
  try {
    await api.removeStream(name);
    location.hash = "#/";
    announce(t("stream.removed", { name }));
  } catch (error) {
    announce(errorText(error));
  }
}
