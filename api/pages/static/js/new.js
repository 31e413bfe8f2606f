// The form of a new job. The spec's JSON text is what is submitted; the fields for hidden layers and steps edit it.

import { call, complain, number, numbers, sentence } from "./api.js";
import "./data.js";

const form = document.getElementById("job");
const field = (name) => document.getElementById(name);
const notice = field("problem");
let fromRecipe = ""; // the spec as the recipe has it; unchanged, the recipe's name is sent instead

const recipe = () => form.querySelector('input[name="recipe"]:checked');
const pretty = (spec) => JSON.stringify(spec, null, 2);

function spec() {
  try {
    return JSON.parse(field("spec").value);
  } catch (error) {
    return error;
  }
}

function chooseRecipe() {
  const chosen = JSON.parse(recipe().dataset.spec);
  field("spec").value = fromRecipe = pretty(chosen);
  showSpec();
  const own = field("dataset").options[0];
  own.disabled = recipe().dataset.needsDataset === "yes";
  own.textContent = own.disabled ? "choose a data set, or upload one above" : "the recipe's own data";
}

function showSpec() {
  const now = spec();
  if (now instanceof Error) return;
  const hidden = now.network?.hidden;
  field("hidden").disabled = hidden === undefined;
  field("hidden").value = Array.isArray(hidden) ? hidden.join(", ") : (hidden ?? "");
  field("steps").value = now.training?.steps ?? "";
}

function edit(apply) {
  const now = spec();
  if (now instanceof Error) return;
  apply(now);
  field("spec").value = pretty(now);
}

function seeds() {
  return field("seeds")
    .value.split(/[\s,;]+/)
    .filter(Boolean)
    .flatMap((word) => {
      const range = word.match(/^(\d+)(?:[-–]|\.\.|…)(\d+)$/);
      if (!range || Number(range[2]) - Number(range[1]) > 1000) return numbers(word);
      return Array.from({ length: Number(range[2]) - Number(range[1]) + 1 }, (_, i) => Number(range[1]) + i);
    });
}

function strengths() {
  const written = field("strengths").value.trim();
  return written.toLowerCase() === "auto" ? "auto" : numbers(written);
}

function countNetworks() {
  const several = strengths() === "auto" ? Number(field("strengths").dataset.ladder) : Math.max(1, strengths().length);
  const count = Math.max(1, seeds().length) * several;
  field("count").textContent = count === 1 ? "1 network" : `${count} networks`;
}

// --- columns of an uploaded table

async function chooseDataset() {
  const option = field("dataset").selectedOptions[0];
  const roles = field("roles");
  roles.hidden = true;
  field("columns").replaceChildren();
  if (option?.dataset.kind !== "uploaded") return;
  const [dataset, preview] = await Promise.all([call("GET", `/datasets/${option.value}`), call("GET", `/datasets/${option.value}/preview`)]);
  if (preview.columns.length > 300) return; // too many for a form; a script can name them
  const known = dataset.roles || {};
  field("columns").append(...preview.columns.map((column) => columnRow(column, known)));
  if (known.task) field("task").value = known.task;
  field("notes").replaceChildren(
    ...dataset.notes.map((note) => {
      const line = document.createElement("p");
      line.className = "hint";
      line.textContent = note;
      return line;
    }),
  );
  roles.dataset.before = JSON.stringify(chosenRoles());
  roles.hidden = false;
}

function columnRow(column, known) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = column.name;
  const cells = [column.missing ?? "", number(column.min), number(column.max)].map((text) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    cell.className = "number";
    return cell;
  });
  const type = document.createElement("td");
  type.textContent = column.type;
  type.title = (column.notes || []).join(" ");
  if (typeof column.missing === "number") type.replaceChildren(typeChoice(column, known));
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", `Role of ${column.name}`);
  choice.dataset.column = column.name;
  for (const role of ["input", "target", "not used"]) choice.append(new Option(role, role));
  const target = (known.targets || []).includes(column.name);
  const used = known.inputs === null || known.inputs === undefined || known.inputs.includes(column.name);
  choice.value = target ? "target" : used ? "input" : "not used";
  const last = document.createElement("td");
  last.append(choice);
  row.append(name, type, ...cells, last);
  type.querySelector("select")?.addEventListener("change", (event) => {
    const unread = ["text", "index"].includes(event.target.value.split("|")[0]);
    if (unread && choice.value === "input") choice.value = "not used";
    if (!unread && choice.value === "not used") choice.value = "input";
  });
  return row;
}

// What a column is and, where that can be either, how its numbers or dates are written.
const TYPES = {
  number: "number",
  "number|1,234.5": "number, such as 1,234.5",
  "number|1.234,5": "number, such as 1.234,5",
  integer: "integer",
  boolean: "boolean",
  category: "category",
  date: "date",
  "date|31/12/2024": "date, such as 31/12/2024",
  "date|12/31/2024": "date, such as 12/31/2024",
  text: "text",
  index: "index",
};

function typeChoice(column, known) {
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", `Type of ${column.name}`);
  choice.dataset.typeOf = column.name;
  for (const [value, words] of Object.entries(TYPES)) choice.append(new Option(words, value));
  const now = known.columns?.[column.name] || column;
  choice.value = [`${now.type}|${now.notation}`, now.type].find((value) => value in TYPES) ?? "text";
  choice.dataset.before = choice.value;
  return choice;
}

function chosenRoles() {
  const chosen = [...field("columns").querySelectorAll("select[data-column]")];
  const named = (role) => chosen.filter((choice) => choice.value === role).map((choice) => choice.dataset.column);
  const types = [...field("columns").querySelectorAll("select[data-type-of]")].filter((choice) => choice.value !== choice.dataset.before);
  const columns = types.map((choice) => {
    const [type, notation] = choice.value.split("|");
    return [choice.dataset.typeOf, notation ? { type, notation } : { type }];
  });
  const roles = { inputs: named("input"), targets: named("target"), task: field("task").value };
  return columns.length ? { ...roles, columns: Object.fromEntries(columns) } : roles;
}

// --- sending

function body() {
  const dataset = field("dataset").value;
  const job = { seeds: seeds(), cost_strengths: strengths(), priority: Number(field("priority").value) };
  if (field("name").value.trim()) job.name = field("name").value.trim();
  job.tags = field("tags").value.split(/[\s,;]+/).filter(Boolean);
  if (dataset) job.dataset = dataset;
  if (dataset && !field("roles").hidden && JSON.stringify(chosenRoles()) !== field("roles").dataset.before) job.roles = chosenRoles();
  if (field("spec").value === fromRecipe) job.recipe = recipe().value;
  else {
    job.spec = spec();
    if (dataset) delete job.spec.dataset;
    job.name ??= recipe().value;
  }
  return job;
}

function showProblem(problem) {
  for (const old of form.querySelectorAll(".wrong")) old.remove();
  for (const old of form.querySelectorAll("[aria-invalid]")) old.removeAttribute("aria-invalid");
  complain(notice, problem);
  if (!problem) return;
  const places = [...form.querySelectorAll("[data-pointer]")];
  for (const error of problem.errors || []) {
    const fitting = places.filter((place) => error.pointer === place.dataset.pointer || error.pointer.startsWith(`${place.dataset.pointer}/`));
    const place = fitting.sort((a, b) => b.dataset.pointer.length - a.dataset.pointer.length)[0];
    if (!place) continue;
    place.setAttribute("aria-invalid", "true");
    place.closest("details")?.setAttribute("open", "");
    const line = document.createElement("p");
    line.className = "wrong";
    line.append(sentence(error.detail));
    (place.closest(".field") || place).append(line);
  }
  notice.focus();
  notice.scrollIntoView({ block: "nearest" });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const edited = spec();
  if (edited instanceof Error) {
    showProblem({ message: `The spec is not JSON: ${edited.message}`, errors: [{ pointer: "/spec", detail: edited.message }] });
    return;
  }
  const button = field("submit");
  button.disabled = true;
  try {
    const job = await call("POST", "/jobs", body());
    location.assign(`/jobs/${job.id}`);
  } catch (problem) {
    showProblem(problem);
    button.disabled = false;
  }
});

for (const choice of form.querySelectorAll('input[name="recipe"]')) choice.addEventListener("change", chooseRecipe);
field("dataset").addEventListener("change", chooseDataset);
field("spec").addEventListener("input", showSpec);
field("hidden").addEventListener("input", () => edit((now) => {
  const widths = numbers(field("hidden").value);
  now.network.hidden = Array.isArray(now.network.hidden) ? widths : widths[0];
}));
field("steps").addEventListener("input", () => edit((now) => (now.training.steps = numbers(field("steps").value)[0])));
for (const name of ["seeds", "strengths"]) field(name).addEventListener("input", countNetworks);
document.addEventListener("uploaded", (event) => {
  event.preventDefault();
  const dataset = event.detail;
  const option = new Option(`${dataset.name}${dataset.rows ? ` (${dataset.rows} rows)` : ""}`, dataset.id, true, true);
  option.dataset.kind = dataset.kind;
  field("dataset").add(option, 1);
  const table = form.querySelector('input[name="recipe"][value="table"]');
  if (table) {
    table.checked = true;
    chooseRecipe();
  }
  chooseDataset();
});

chooseRecipe();
chooseDataset();
countNetworks();
