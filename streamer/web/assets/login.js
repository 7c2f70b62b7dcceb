// Asks for the page's token.

import { api } from "./api.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { errorText } from "./parts.js";

/** Shows the form in `main`; calls `entered` after the right token. */
export function loginView(main, entered) {
  const token = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", "aria-describedby": "token-help login-error" });
  const error = h("p", { class: "error", role: "alert", id: "login-error" });
  const submit = h("button", { type: "submit", class: "primary" }, t("login.enter"));
  const enter = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    error.textContent = "";
    try {
      await api.login(token.value);
      entered();
    } catch (refusal) {
      error.textContent = refusal.status === 401 ? t("login.wrong") : refusal.status === 429 ? t("login.wait") : errorText(refusal);
      token.select();
    }
    submit.disabled = false;
  };
  main.append(h("form", { class: "card login", on: { submit: enter } },
    icon("lock"), h("h1", {}, t("login")),
    h("label", { class: "field" }, h("span", {}, t("login.token")), token),
    h("p", { class: "help", id: "token-help" }, t("login.help")), error, submit));
  token.focus();
}
