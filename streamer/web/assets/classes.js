// What the model can find, and each class's colour: the program's palette, asked for once.

import { api } from "./api.js";

let classes = [];
let byLabel = new Map();

/** Loads the classes; does nothing where they are known. */
export async function loadClasses() {
  if (classes.length) return;
  classes = await api.classes();
  byLabel = new Map(classes.map((each) => [each.label, each]));
}

export const labels = () => classes.map((each) => each.label);
export const labelOf = (id) => classes[id]?.label ?? String(id);
export const colourOf = (id) => classes[id]?.colour ?? "#ff4d4d";
export const inkOf = (id) => classes[id]?.ink ?? "#000000";
export const colourOfLabel = (label) => byLabel.get(label)?.colour ?? "#888888";
