// The way to the service: JSON in, JSON out, and every refusal a Problem with its sentence.

export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || `The service answered ${status}.`);
    this.status = status;
    this.errors = document.errors || [];
  }
}

export const csrf = () => document.querySelector('meta[name="csrf-token"]').content;

export async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrf();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem({ detail: "The service cannot be reached. Check the network and try again." }, 0);
  }
  const text = await response.text();
  let document = {};
  try {
    document = text ? JSON.parse(text) : {};
  } catch {
    document = { detail: `The service answered ${response.status} with something that is not JSON.` };
  }
  if (!response.ok) throw new Problem(document, response.status);
  return document;
}

// The answer of a worker: at once, or as soon as it is there.
export async function waitFor(method, path, body) {
  let answer = await call(method, path, body);
  if (!("state" in answer && "kind" in answer)) return answer;
  while (answer.state === "queued" || answer.state === "running") answer = await call("GET", `/errands/${answer.id}?wait=20`);
  if (answer.state !== "succeeded") throw new Problem({ detail: answer.reason || `The question was ${answer.state}; ask again.` }, 409);
  return answer.answer;
}

// A number as a person reads it; the pages that come from the server do the same.
export function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const raised = String(Number(exponent)).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
    return `${Number(mantissa)}·10${raised}`.replace("-", "−");
  }
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// A sentence of the service: what stands between backticks is code.
export function sentence(text) {
  const span = document.createElement("span");
  text.split("`").forEach((part, index) => {
    if (index % 2 === 0) return span.append(part);
    const code = document.createElement("code");
    code.textContent = part;
    span.append(code);
  });
  return span;
}

// Show a problem in a notice, with one line for each field.
export function complain(notice, problem) {
  notice.replaceChildren();
  if (!problem) {
    notice.hidden = true;
    return;
  }
  const said = document.createElement("strong");
  said.append(sentence(problem.message));
  notice.append(said);
  const list = document.createElement("ul");
  for (const error of problem.errors || []) {
    if ((problem.errors || []).length === 1 && problem.message.includes(error.detail)) break;
    const item = document.createElement("li");
    const where = [error.row ? `row ${error.row}` : "", error.column ? `column ${error.column}` : ""].filter(Boolean).join(", ");
    item.append(where || field(error.pointer), where || error.pointer ? ": " : "", sentence(error.detail));
    list.append(item);
  }
  if (list.children.length) notice.append(list);
  notice.hidden = false;
}

// A JSON Pointer as people name a field: `/spec/training/steps` is training, steps.
const field = (pointer) => (pointer || "").split("/").filter((part) => part && part !== "spec").join(", ").replaceAll("_", " ");

// Wait between two questions, longer while nobody looks.
export const pause = (milliseconds) =>
  new Promise((done) => setTimeout(done, document.hidden ? 10 * milliseconds : milliseconds));
