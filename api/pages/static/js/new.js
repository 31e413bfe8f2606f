// The form of a new job: an experiment with its own data, or data and a network. The spec's JSON text is what is submitted;
// the fields for hidden layers and steps edit it. The page says what the job would do before it is submitted.

import { Problem, all, around, asProblem, call, complain, counted, duration, field, find, maybe, number, numbers, pause, sentence } from "./api.js";
import { TYPES, Uploaded, bars } from "./data.js";

/**
 * @typedef {{dataset?: {kind: string}, network?: {hidden?: number|string|(number|string)[]}, training?: {steps?: number|string}}} Spec
 * @typedef {{seeds: unknown[], cost_strengths: unknown, priority: number, tags: string[], name?: string, recipe?: string, spec?: Spec, dataset?: string, roles?: Roles, network_id?: string, kind?: string}} Body
 * @typedef {import("./data.js").Made} Made
 */

const form = field("job", HTMLFormElement);
const notice = field("problem");
/** @param {string} id */
const written = (id) => field(id, HTMLInputElement);
/** @param {string} id */
const select = (id) => field(id, HTMLSelectElement);
/** @type {Record<string, string>} */
const FORMATS = JSON.parse(field("dataset").dataset.formats ?? "{}"); // format → what its examples are; the others are tables
let waiting = ""; // what is to be chosen before anything can be trained, a sentence; empty: nothing
/** @type {boolean|undefined} */
let scaled; // whether columns are scaled, as the data set or the user says; undefined: not for an uploaded network
let asOffered = ""; // the spec as it was offered; unchanged, the name of the experiment is sent instead

const data = () => select("dataset").selectedOptions[0];
const isExperiment = () => !data().value;
const recipe = () => maybe(form, 'input[name="recipe"]:checked', HTMLInputElement); // null where nothing is chosen, see refuse()
const network = () => maybe(form, 'input[name="network"]:checked', HTMLInputElement);
/** The label around a radio button. @param {Element} radio */
const choiceAround = (radio) => radio.closest("label") ?? form;
const isBrought = () => "uploaded" in (network()?.dataset ?? {});
const isUploaded = () => !isExperiment() && isBrought();
const isAnalysed = () => isUploaded() && select("kind").value === "analyse";
/** @param {Element|null} radio */
const titleOf = (radio) => (radio && choiceAround(radio).querySelector("strong")?.textContent) ?? "";
/** @param {Spec} spec */
const pretty = (spec) => JSON.stringify(spec, null, 2);

/** @returns {Spec|Error} */
function spec() {
  try {
    return JSON.parse(field("spec", HTMLTextAreaElement).value);
  } catch (error) {
    return asProblem(error);
  }
}

/** Offers the networks that fit the examples of the chosen data; without data, the experiments. */
function offer() {
  const isNetwork = !isExperiment() || (Boolean(waiting) && isBrought());
  field("experiments").hidden = isNetwork;
  field("networks").hidden = !isNetwork;
  field("how-title").textContent = isNetwork ? "Network" : "Experiment";
  field("submit", HTMLButtonElement).disabled = Boolean(waiting);
  const radios = all(form, 'input[name="network"]', HTMLInputElement);
  for (const each of radios) choiceAround(each).hidden = !("uploaded" in each.dataset) && (isExperiment() || !specOf(each));
  if (!isExperiment() && !waiting) {
    const chosen = network();
    const fitting = radios.find((each) => !choiceAround(each).hidden);
    if (fitting && (!chosen || choiceAround(chosen).hidden)) fitting.checked = true;
  }
  choose();
}

/** The spec of a network on the chosen data; undefined where it does not fit them. @param {HTMLElement} choice @returns {Spec|undefined} */
const specOf = (choice) => JSON.parse(choice.dataset.specs ?? "{}")[data().dataset.examples ?? ""];

function choose() {
  const chosenNetwork = network();
  /** @type {Spec} */
  let chosen;
  if (waiting) chosen = {};
  else if (isExperiment()) chosen = JSON.parse(recipe()?.dataset.spec ?? "{}");
  else if (!isUploaded()) chosen = structuredClone((chosenNetwork && specOf(chosenNetwork)) ?? {});
  else {
    // How networks on such data are trained; the uploaded one takes its place.
    const like = all(form, 'input[name="network"][data-specs]', HTMLInputElement).map(specOf).find(Boolean);
    chosen = structuredClone(like ?? {});
    delete chosen.network;
    if (isAnalysed()) chosen.training = { ...chosen.training, steps: 0 };
  }
  if (data().dataset.kind === "built-in" && !waiting) chosen = { dataset: { kind: data().value }, ...chosen };
  field("begin").hidden = !isUploaded();
  written("standardise").checked = scaled ?? !isUploaded();
  field("verb").textContent = isAnalysed() ? "Analyse" : "Train";
  field("spec", HTMLTextAreaElement).value = asOffered = pretty(chosen);
  showSpec();
  foresee();
}

function showSpec() {
  const now = spec();
  if (now instanceof Error) return;
  const hidden = now.network?.hidden;
  written("hidden").disabled = hidden === undefined;
  written("hidden").value = Array.isArray(hidden) ? hidden.join(", ") : String(hidden ?? "");
  written("steps").disabled = isAnalysed();
  written("steps").value = String(now.training?.steps ?? "");
}

/** @param {(now: Spec) => void} apply */
function edit(apply) {
  const now = spec();
  if (now instanceof Error) return;
  apply(now);
  field("spec", HTMLTextAreaElement).value = pretty(now);
}

function seeds() {
  return written("seeds")
    .value.split(/[\s,;]+/)
    .filter(Boolean)
    .flatMap((word) => {
      const range = word.match(/^(\d+)(?:[-–]|\.\.|…)(\d+)$/);
      if (!range || Number(range[2]) - Number(range[1]) > 1000) return numbers(word);
      return Array.from({ length: Number(range[2]) - Number(range[1]) + 1 }, (_, i) => Number(range[1]) + i);
    });
}

function strengths() {
  const text = written("strengths").value.trim();
  return text.toLowerCase() === "auto" ? "auto" : numbers(text);
}

function countNetworks() {
  const several = strengths() === "auto" ? Number(field("strengths").dataset.ladder) : Math.max(1, strengths().length);
  const count = Math.max(1, seeds().length) * several;
  field("count").textContent = count === 1 ? "1 network" : `${count} networks`;
}

// --- columns of an uploaded table

const ROLES = ["input", "target", "not used"];
const SHOWN = 40; // columns whose first values are shown
let described = ""; // the data whose columns are on the page

/** @param {string} [waits] what is still to be chosen */
async function chooseDataset(waits = "") {
  const option = data();
  waiting = waits;
  described = option.value;
  field("roles").hidden = true;
  field("columns").replaceChildren();
  if (option.dataset.kind === "uploaded") await describe(option);
  if (described === option.value) offer();
}

/** @param {HTMLOptionElement} option */
async function describe(option) {
  /** @type {[DatasetOut, PreviewOut]} */
  const [dataset, preview] = await Promise.all([call("GET", `/datasets/${option.value}`), call("GET", `/datasets/${option.value}/preview`)]);
  if (described !== option.value) return; // another was chosen meanwhile
  option.dataset.examples = preview.columns.some(({ shape }) => shape && shape.length > 1) ? "images" : (FORMATS[dataset.format ?? ""] ?? "table");
  if (preview.columns.length > 300) return; // too many for a form; a script can name them
  const known = dataset.roles || {};
  field("columns").append(...preview.columns.map((column) => columnRow(column, known)));
  if (known.task) select("task").value = known.task;
  scaled = known.standardise;
  field("notes").replaceChildren(
    // What becomes of missing cells depends on the roles that are chosen: the plan says it.
    ...(dataset.notes ?? []).filter((note) => !preview.missing_notes.includes(note)).map((note) => {
      const line = Object.assign(document.createElement("p"), { className: "hint" });
      line.append(sentence(note));
      return line;
    }),
  );
  showPreview(preview);
  field("roles").dataset.before = JSON.stringify(chosenRoles());
  field("roles").hidden = ["text", "group"].includes(option.dataset.examples ?? ""); // theirs are what they are
}

/** The first rows; the head of each column says its role, and changes it. @param {PreviewOut} preview */
function showPreview(preview) {
  const targets = chosenRoles().targets;
  const columns = preview.columns.filter(({ name }, at) => at < SHOWN || targets.includes(name));
  field("heads").replaceChildren(
    ...columns.map((column) => {
      const { name } = column;
      const [head, button] = [document.createElement("th"), document.createElement("button")];
      head.scope = "col";
      button.type = "button";
      button.dataset.head = name;
      button.addEventListener("click", () => {
        const choice = choiceOf(name);
        choice.value = ROLES[(ROLES.indexOf(choice.value) + 1) % ROLES.length];
        choice.dispatchEvent(new Event("change", { bubbles: true }));
      });
      head.append(button, bars(column, preview.rows) ?? "");
      if (column.missing && preview.rows) {
        const textContent = `${Math.max(1, Math.round((100 * column.missing) / preview.rows))}% missing`;
        head.append(Object.assign(document.createElement("span"), { className: "range", textContent }));
      }
      return head;
    }),
  );
  field("first-rows").replaceChildren(
    ...preview.first_rows.slice(0, 5).map((row) => {
      const line = document.createElement("tr");
      line.append(
        ...columns.map(({ name, shape }) => {
          const cell = document.createElement("td");
          const value = row[name];
          if (shape?.length) cell.textContent = `${shape.join(" × ")} numbers`;
          else cell.textContent = typeof value === "number" ? number(value) : String(value ?? "–").slice(0, 40);
          return cell;
        }),
      );
      return line;
    }),
  );
  const [left, types] = [preview.columns.length - columns.length, field("types", HTMLDetailsElement)];
  find(types, "summary", HTMLElement).textContent = `Types and ranges of ${left ? `all ${preview.columns.length} columns; ${left} are only here` : "its columns"}`;
  types.open = Boolean(left);
  showRoles();
}

/** The select of a column's role. @param {string|undefined} name */
function choiceOf(name) {
  const found = all(field("columns"), "select[data-column]", HTMLSelectElement).find((choice) => choice.dataset.column === name);
  if (!found) throw new RangeError(`There is no column ${name}.`);
  return found;
}

function showRoles() {
  for (const button of field("heads").querySelectorAll("button")) {
    const [role, name] = [document.createElement("span"), document.createElement("span")];
    const now = choiceOf(button.dataset.head).value;
    [name.textContent, role.textContent] = [button.dataset.head ?? "", now];
    role.className = "role";
    button.dataset.role = now;
    button.replaceChildren(name, role);
  }
  for (const row of field("first-rows", HTMLTableSectionElement).rows) {
    row.querySelectorAll("td").forEach((cell, at) => (cell.dataset.role = choiceOf(field("heads").querySelectorAll("button")[at].dataset.head).value));
  }
  const { inputs, targets } = chosenRoles();
  field("roles-words").textContent = targets.length ? `Predict ${some(targets)} from ${some(inputs)}.` : "Which column is to be predicted? Make one a target.";
}

/** @param {string[]} names */
const some = (names) => (names.length ? names.slice(0, 4).join(", ") + (names.length > 4 ? ` and ${names.length - 4} more` : "") : "nothing");

/** @param {PreviewColumn} column @param {Roles} known */
function columnRow(column, known) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = column.name;
  const cells = [column.missing ?? "", number(column.min), number(column.max)].map((text) => {
    return Object.assign(document.createElement("td"), { textContent: String(text), className: "number" });
  });
  const type = document.createElement("td");
  type.textContent = column.type;
  type.title = (column.notes || []).join(" ").replaceAll("`", "");
  if (typeof column.missing === "number") type.replaceChildren(typeChoice(column, known));
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", `Role of ${column.name}`);
  choice.dataset.column = column.name;
  for (const role of ROLES) choice.append(new Option(role, role));
  const target = (known.targets || []).includes(column.name);
  const used = known.inputs === null || known.inputs === undefined || known.inputs.includes(column.name);
  choice.value = target ? "target" : used ? "input" : "not used";
  const last = document.createElement("td");
  last.append(choice);
  row.append(name, type, ...cells, last);
  choice.addEventListener("change", showRoles);
  const ofType = type.querySelector("select");
  ofType?.addEventListener("change", () => {
    const unread = ["text", "index"].includes(ofType.value.split("|")[0]);
    if (unread && choice.value === "input") choice.value = "not used";
    if (!unread && choice.value === "not used") choice.value = "input";
    showRoles();
  });
  return row;
}

/** @param {PreviewColumn} column @param {Roles} known */
function typeChoice(column, known) {
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", `Type of ${column.name}`);
  choice.dataset.typeOf = column.name;
  for (const [value, words] of Object.entries(TYPES)) choice.append(new Option(words, value));
  const now = known.columns?.[column.name] || column;
  choice.value = [`${now.type}|${now.notation}`, now.type ?? ""].find((value) => value in TYPES) ?? "text";
  choice.dataset.before = choice.value;
  return choice;
}

function chosenRoles() {
  const chosen = all(field("columns"), "select[data-column]", HTMLSelectElement);
  /** @param {string} role */
  const named = (role) => chosen.filter((choice) => choice.value === role).map((choice) => choice.dataset.column ?? "");
  const types = all(field("columns"), "select[data-type-of]", HTMLSelectElement).filter((choice) => choice.value !== choice.dataset.before);
  const columns = types.map((choice) => {
    const [type, notation] = choice.value.split("|");
    return [choice.dataset.typeOf, notation ? { type, notation } : { type }];
  });
  const roles = { inputs: named("input"), targets: named("target"), task: select("task").value, ...(scaled === undefined ? {} : { standardise: scaled }) };
  return columns.length ? { ...roles, columns: Object.fromEntries(columns) } : roles;
}

// --- sending

/** @returns {Body} */
function body() {
  const name = written("name").value.trim();
  const tags = written("tags").value.split(/[\s,;]+/).filter(Boolean);
  /** @type {Body} */
  const job = { seeds: seeds(), cost_strengths: strengths(), priority: Number(select("priority").value), ...(name ? { name } : {}), tags };
  if (isExperiment() && field("spec", HTMLTextAreaElement).value === asOffered) return { ...job, recipe: recipe()?.value };
  const edited = spec();
  if (edited instanceof Error) throw edited;
  job.spec = edited;
  job.name ??= isExperiment() ? recipe()?.value : nameOf();
  if (isExperiment()) return job;
  if (data().dataset.kind !== "built-in") {
    delete job.spec.dataset;
    job.dataset = data().value;
    if (!field("roles").hidden && JSON.stringify(chosenRoles()) !== field("roles").dataset.before) job.roles = chosenRoles();
  }
  if (isUploaded()) {
    delete job.spec.network;
    Object.assign(job, { network_id: network()?.value, kind: select("kind").value });
  }
  return job;
}

// Data and network, by which a job is recognised in a list.
function nameOf() {
  const of = data().textContent.replace(/ \([\d.,·⁰-⁹\s]+ rows\)$/, "").replace(/\.(csv|tsv|xlsx|parquet|npz|zip|gz)$/i, "");
  return `${of}, ${titleOf(network()).toLowerCase()}`.slice(0, 120);
}

// --- what would happen

let foreseen = 0; // number of the newest question

async function foresee() {
  const mine = ++foreseen;
  await pause(300); // while someone types, only the last of what is typed is asked about
  if (mine !== foreseen) return;
  const place = field("plan");
  if (waiting) return place.replaceChildren(sentence(waiting));
  if (spec() instanceof Error || (!field("roles").hidden && !chosenRoles().targets.length)) return (place.textContent = "");
  const asked = body();
  let words;
  try {
    /** @type {PlanOut} */
    const { runs, steps, seconds, like, memory_bytes: memory, notes = [] } = await call("POST", "/jobs/plan", asked);
    const each = steps / runs;
    const what = each ? `Trains ${runs === 1 ? "one network" : `${runs} networks`} for ${number(each)} steps${runs === 1 ? "" : " each"}, prunes ${runs === 1 ? "it" : "them"} and looks for modules.` : "Analyses the network as it is: relocates its neurons, prunes it and tests its modules.";
    const long = seconds === null ? "How long that takes is not known yet: no similar run has ended." : `About ${duration(Math.max(1, seconds))} of one worker, judged by ${like === 1 ? "a similar run" : `${like} similar runs`}.`;
    const title = isExperiment() ? `“${titleOf(recipe())}”: ` : "";
    words = [`${title}${what}`, long, memory ? `About ${(memory / 1e9).toFixed(1)} GB of memory.` : "", ...notes].filter(Boolean).join(" ");
  } catch (problem) {
    const isTold = problem instanceof Problem && (problem.status === 422 || problem.status === 409);
    words = !isTold ? "" : problem.errors.length > 1 ? problem.errors.map(({ detail }) => detail).join(" ") : problem.message;
  }
  if (mine === foreseen) place.replaceChildren(sentence(words));
}

/** @param {Problem} problem */
function showProblem(problem) {
  for (const old of form.querySelectorAll(".wrong")) old.remove();
  for (const old of form.querySelectorAll("[aria-invalid]")) old.removeAttribute("aria-invalid");
  complain(notice, problem);
  const places = all(form, "[data-pointer]", HTMLElement);
  for (const error of problem.errors) {
    const fitting = places.filter(({ dataset }) => error.pointer === dataset.pointer || error.pointer.startsWith(`${dataset.pointer}/`));
    const place = fitting.sort((a, b) => (b.dataset.pointer ?? "").length - (a.dataset.pointer ?? "").length)[0];
    if (!place) continue;
    place.setAttribute("aria-invalid", "true");
    place.closest("details")?.setAttribute("open", "");
    const line = Object.assign(document.createElement("p"), { className: "wrong" });
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
    showProblem(new Problem({ detail: `The spec is not JSON: ${edited.message}`, errors: [{ pointer: "/spec", detail: edited.message }] }, 422));
    return;
  }
  const button = field("submit", HTMLButtonElement);
  button.disabled = true;
  try {
    /** @type {JobOut} */
    const job = await call("POST", "/jobs", body());
    location.assign(`/jobs/${job.id}`);
  } catch (problem) {
    showProblem(asProblem(problem));
    button.disabled = false;
  }
});

field("experiments").addEventListener("change", () => {
  waiting = "";
  offer();
});
field("networks").addEventListener("change", () => {
  waiting = isExperiment() ? awaited() : network() ? "" : waiting;
  offer();
});
field("dataset").addEventListener("change", () => chooseDataset());
field("first-rows").addEventListener("click", (event) => {
  const at = around(event, "td", HTMLTableCellElement)?.cellIndex;
  if (at !== undefined) field("heads").querySelectorAll("button")[at].click(); // a column is chosen anywhere in it
});
field("standardise").addEventListener("change", () => (scaled = written("standardise").checked));
field("spec").addEventListener("input", showSpec);
field("hidden").addEventListener("input", () => edit((now) => {
  const widths = numbers(written("hidden").value);
  now.network = { ...now.network, hidden: Array.isArray(now.network?.hidden) ? widths : widths[0] };
}));
field("steps").addEventListener("input", () => edit((now) => (now.training = { ...now.training, steps: numbers(written("steps").value)[0] })));
for (const name of ["seeds", "strengths"]) field(name).addEventListener("input", countNetworks);
for (const name of ["input", "change"]) form.addEventListener(name, foresee);

document.addEventListener("uploaded", (event) => {
  if (!(event instanceof Uploaded)) return;
  event.preventDefault();
  if (event.noun === "networks") addNetwork(/** @type {NetworkOut} */ (event.detail));
  else addDataset(/** @type {DatasetOut} */ (event.detail));
});
document.addEventListener("refused", (event) => refuse(/** @type {CustomEvent<{name: string, noun: string}>} */ (event).detail));

/** Nothing but what is then chosen is trained: someone who sent a file means that one. @param {{name: string, noun: string}} file */
function refuse({ name, noun }) {
  const kept = isExperiment() && waiting && isBrought(); // a network, which waits for other data
  const radio = noun === "networks" && !isExperiment() ? network() : kept ? null : recipe();
  if (radio) radio.checked = false;
  const said = `\`${name}\` cannot be used. `;
  if (noun === "networks" && !isExperiment()) {
    waiting = `${said}Send it again, or choose a network above.`;
    offer();
  } else {
    select("dataset").value = "";
    chooseDataset(said + (kept ? awaited() : "Send it again, or choose data or an experiment above."));
  }
}

const awaited = () => `\`${titleOf(network())}\` is ready. Choose the data that it reads, above.`;

/** @param {DatasetOut} dataset */
function addDataset(dataset) {
  const option = new Option(`${dataset.name}${dataset.rows ? ` (${counted(dataset.rows)} rows)` : ""}`, dataset.id, true, true);
  option.dataset.kind = dataset.kind;
  let ours = ownData();
  if (!ours) {
    ours = document.createElement("optgroup");
    [ours.id, ours.label] = ["ours", "Your team’s"];
    select("dataset").options[0].after(ours);
  }
  ours.prepend(option);
  select("dataset").value = dataset.id;
  chooseDataset();
}

const ownData = () => maybe(form, "#ours", HTMLOptGroupElement);

/** @param {NetworkOut} network */
function addNetwork({ id, name, format, parameters, input, output }) {
  const choice = /** @type {HTMLElement} */ (find(field("networks"), ".choice", HTMLElement).cloneNode(true));
  const radio = find(choice, "input", HTMLInputElement);
  delete radio.dataset.specs;
  Object.assign(radio.dataset, { uploaded: "" });
  radio.value = id;
  radio.checked = true;
  find(choice, "strong", HTMLElement).textContent = name;
  const ends = input && output ? `${lengths(input)} inputs → ${lengths(output)} outputs` : "";
  find(choice, ".quiet", HTMLElement).textContent = `Uploaded: ${[format, parameters ? `${counted(parameters)} parameters` : "", ends].filter(Boolean).join(", ")}.`;
  find(field("networks"), ".choices", HTMLElement).append(choice);
  waiting = isExperiment() ? awaited() : "";
  offer();
}

/** Of one example, as the page itself writes them. @param {{shape: (?number)[]}} end */
const lengths = ({ shape }) => shape.slice(1).map((length) => (length === null ? "any" : counted(length))).join(" × ") || "1";

// A link from the page of a network: with data that it may read.
if (isExperiment() && isBrought()) select("dataset").value = ownData()?.querySelector("option")?.value ?? "";

chooseDataset(isExperiment() && isBrought() ? awaited() : "");
countNetworks();
