// Requests to the API, and what every page does with an answer: show a problem, a number, the state of a button.

/** A refusal of the service: `message` is its sentence, `errors` has one entry for each wrong field. */
export class Problem extends Error {
  /**
   * @param {{detail?: string, errors?: WrongField[]}} document the problem document (RFC 9457)
   * @param {number} status HTTP status; 0 when the service was not reached
   */
  constructor(document, status) {
    super(document.detail || `The service answered ${status}.`);
    this.status = status;
    this.errors = document.errors || [];
  }
}

/** @typedef {HTMLInputElement|HTMLSelectElement|HTMLTextAreaElement|RadioNodeList} Control of a form, by its name */

const API = "/api/v1";
const STALLED = 40_000; // milliseconds; a request that waits 20 s on the server and is not answered by then never will be
const UNREACHABLE = "The service cannot be reached. Check the network and try again.";

/** @returns {string} the token that every request with a session needs, except GET */
export const csrf = () => find(document, 'meta[name="csrf-token"]', HTMLMetaElement).content;

/** @type {(method: string, path: string, body?: object) => Promise<[any, Response]>} any: what a document holds, its reader says */
async function send(method, path, body) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrf();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem({ detail: UNREACHABLE }, 0);
  }
  const text = await response.text();
  let document = {};
  try {
    document = text ? JSON.parse(text) : {};
  } catch {
    document = { detail: `The service answered ${response.status} with something that is not JSON.` };
  }
  if (!response.ok) throw new Problem(document, response.status);
  return [document, response];
}

/**
 * One request with JSON in and out; of which type the answer is, the caller says.
 * @template T
 * @param {string} method
 * @param {string} path below /api/v1
 * @param {object} [body]
 * @returns {Promise<T>}
 * @throws {Problem}
 */
export const call = async (method, path, body) => (await send(method, path, body))[0];

/**
 * The answer to a request that may start an operation of a worker: waits until the operation has ended.
 * @template T
 * @param {string} method
 * @param {string} path below /api/v1
 * @param {object} [body]
 * @returns {Promise<T>}
 * @throws {Problem}
 */
export async function waitFor(method, path, body) {
  let [answer, response] = await send(method, path, body);
  if (response.status !== 202) return answer;
  const operation = (response.headers.get("Location") ?? "").slice(API.length);
  while (answer.state === "queued" || answer.state === "running") answer = await call("GET", `${operation}?wait=20`);
  if (answer.state !== "succeeded") throw new Problem({ detail: answer.reason || `The operation was ${answer.state}; request it again.` }, 409);
  return answer.answer;
}

/**
 * Waits until a file that is generated on request can be downloaded.
 * @param {string} address
 * @throws {Problem} when it cannot be generated
 */
export async function fileReady(address) {
  for (;;) {
    let response;
    try {
      response = await fetch(`${address}?wait=20`, { method: "HEAD", signal: AbortSignal.timeout(STALLED) });
    } catch (error) {
      if (error instanceof Error && error.name === "TimeoutError") continue; // the file may be there by now
      throw new Problem({ detail: UNREACHABLE }, 0);
    }
    if (response.status === 200) return;
    if (response.status === 202) continue;
    const answer = await fetch(`${address}?wait=0`); // a HEAD has no body to say why
    throw new Problem(await answer.json().catch(() => ({})), answer.status);
  }
}

/** @param {number} milliseconds pause between two polls; ten times as long while the tab is hidden */
export const pause = (milliseconds) =>
  new Promise((done) => setTimeout(done, document.hidden ? 10 * milliseconds : milliseconds));

/**
 * This page as the server renders it now.
 * @returns {Promise<Document>}
 */
export const renderedAnew = async () => new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");

// --- elements of the page; one that is missing, or of another type, is an error that names its selector

/**
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T}
 */
export function find(root, selector, type) {
  const found = maybe(root, selector, type);
  if (!found) throw new TypeError(`There is no ${selector} on this page.`);
  return found;
}

/**
 * The same; null where the page has none.
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} type
 * @returns {?T}
 */
export function maybe(root, selector, type) {
  const found = root.querySelector(selector);
  return found && typed(found, selector, type);
}

/** All that a selector matches. @template {Element} T @param {ParentNode} root @param {string} selector @param {new () => T} type @returns {T[]} */
export const all = (root, selector, type) => [...root.querySelectorAll(selector)].map((each) => typed(each, selector, type));

/** The one with this id. @template {HTMLElement} [T=HTMLElement] @param {string} id @param {new () => T} [type] @returns {T} */
export const field = (id, type = /** @type {new () => T} */ (HTMLElement)) => find(document, `#${id}`, type);

/** That which an event came from, or the one around it. @template {Element} T @param {Event} event @param {string} selector @param {new () => T} type @returns {?T} */
export function around({ target }, selector, type) {
  const found = target instanceof Element ? target.closest(selector) : null;
  return found && typed(found, selector, type);
}

/** @template {Element} T @param {Element} found @param {string} selector @param {new () => T} type */
function typed(found, selector, type) {
  if (!(found instanceof type)) throw new TypeError(`${selector} of this page is no ${type.name}.`);
  return found;
}

// --- values as text

/** A number as the server writes it: `number` of bimt_engine/analysis/statements/wording.py. @param {unknown} value */
export function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let shown;
  if (size >= 1e6 || size < 1e-4) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const power = `10${raised(String(Number(exponent)))}`;
    shown = Number(mantissa) === 1 ? power : `${Number(mantissa)}·${power}`;
  } else if (size >= 999.5) shown = value.toLocaleString("en", { maximumFractionDigits: 0, roundingMode: "halfEven" });
  else shown = String(Number(value.toFixed(Math.max(0, 3 - Math.ceil(Math.log10(size) + 1e-12)))));
  return shown.replace("-", "−");
}

/** A share such as R²: never 1 for what is only nearly 1. `share` of wording.py. @param {unknown} value */
export function share(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value < 0) return "below 0, worse than a constant";
  let digits = 4;
  while (digits < 9 && Number(value.toFixed(digits)) === 1 && value !== 1) digits += 1;
  return String(Number(value.toFixed(digits)));
}

/** A metric: R² and accuracies as shares, all others as numbers. `measured` of wording.py. @param {string} metric @param {unknown} value */
export const measured = (metric, value) => (/(r2|accuracy)$/.test(metric) ? share(value) : number(value));

/** A share as a percentage; 100% only what is all but for rounding. @param {number} value */
export function percent(value) {
  if (value < 0.0995) return `${number(100 * value)}%`;
  return `${value > 0.99 && value < 1 - 1e-5 ? Math.floor(1000 * value) / 10 : Math.round(100 * value)}%`;
}

/** A whole number with all its digits. @param {number} count */
export const counted = (count) => count.toLocaleString("en");

// As bimt_engine/analysis/statements/wording.py has it: only what can be nothing else, because names come from users.
const MATHEMATICS =
  /(?<![\w.])(?<symbol>[xy])(?<index>\d+)(?!\w)|(?<=[\w)])(?:\*\*|\^)(?:(?<whole>-?\d+)(?![\w.])|(?<decimal>-?\d+\.\d+)|\((?<inner>-?[\d./]+)\))|(?<times>(?<=[\d)])\*(?=[\w(]))|(?<pi>(?<!\w)pi(?=[·*])|(?<=[·*])pi(?!\w))|(?<root>(?<!\w)sqrt(?=\())/g;
/** @param {string} digits */
const raised = (digits) => digits.replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

/** The pieces of a text and how they stand: `x4^2` as x₄². @param {string} text */
export function pieces(text) {
  /** @type {[string, ""|"sub"|"sup"][]} */
  const found = [];
  let last = 0;
  for (const match of text.matchAll(MATHEMATICS)) {
    const { symbol, index, whole, decimal, inner, times, pi } = match.groups ?? {};
    found.push([text.slice(last, match.index), ""]);
    last = match.index + match[0].length;
    if (symbol) found.push([symbol, ""], [index, "sub"]);
    else if (whole) found.push([raised(whole), ""]);
    else if (inner || decimal) found.push([(inner || decimal).replaceAll("-", "−"), "sup"]);
    else found.push([times ? "·" : pi ? "π" : "√", ""]);
  }
  found.push([text.slice(last), ""]);
  return found.filter(([part]) => part);
}

/** A name, formula or sentence as the server writes it; its text stays `x4`. @param {string} text */
export const typeset = (text) => pieces(text).map(([part, how]) => (how ? Object.assign(document.createElement(how), { textContent: part }) : part));

/** A length of time in at most two units; nothing for null. @param {?number} [seconds] */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** What a job that has not ended waits for: its turn, or its end. @param {Pick<JobEvent, "state"|"queue_position"|"eta_seconds">} job */
export function turn({ state, queue_position: before, eta_seconds: left }) {
  if (state === "queued" && typeof before === "number") return before ? `${number(before)} before it in the queue` : "next in the queue";
  return state === "running" && typeof left === "number" ? `about ${duration(left)} left` : "";
}

/** A sentence of the service, in which `backticks` mark code. @param {string} text */
export function sentence(text) {
  const span = document.createElement("span");
  text.split(/`([^`]+)`/).forEach((part, index) => {
    if (index % 2 === 0) return span.append(part);
    const code = document.createElement("code");
    code.textContent = part;
    span.append(code);
  });
  return span;
}

/** @type {Record<string, string>} */
const METRIC_NAMES = {
  prediction_loss: "train loss",
  test_prediction_loss: "test loss",
  validation_prediction_loss: "validation loss",
  total_loss: "total loss",
  connection_cost: "connection cost",
  accuracy: "train accuracy",
  train_accuracy: "train accuracy",
  test_accuracy: "test accuracy",
  validation_accuracy: "validation accuracy",
  cost_strength: "cost strength λ",
};

/** The label of a metric. @param {string} metric */
export const metricName = (metric) => METRIC_NAMES[metric] || metric.replaceAll("_", " ");

// --- tables that are wider than the page

/** Makes what can be scrolled, and holds nothing that the keyboard reaches, reachable itself; call it when content changes. */
export function reachable() {
  for (const place of document.querySelectorAll(".scroll:not([role=region]), .scroll[data-reached]")) {
    const wide = place.scrollWidth > place.clientWidth || place.scrollHeight > place.clientHeight;
    const needed = wide && !place.querySelector("a[href], button, input, select, textarea");
    place.toggleAttribute("data-reached", needed);
    if (!needed) {
      for (const name of ["tabindex", "role", "aria-label"]) place.removeAttribute(name);
      continue;
    }
    const named = place.querySelector("caption")?.textContent ?? place.querySelector("table")?.getAttribute("aria-label");
    const heading = [...document.querySelectorAll("h1, h2, h3")].findLast((each) => each.compareDocumentPosition(place) & Node.DOCUMENT_POSITION_FOLLOWING);
    const label = named || heading?.textContent || "Table";
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", label.trim()]]) place.setAttribute(name, value);
  }
}

// --- notices and forms

/**
 * Shows a problem in a notice, with one line for each field; null hides the notice.
 * @param {HTMLElement} notice
 * @param {unknown} caught a Problem; any other error is shown by its message
 */
export function complain(notice, caught) {
  notice.replaceChildren();
  if (!caught) {
    notice.hidden = true;
    return;
  }
  const problem = asProblem(caught);
  const message = document.createElement("strong");
  message.append(sentence(problem.message));
  notice.append(message);
  const list = document.createElement("ul");
  for (const error of problem.errors) {
    if (problem.errors.length === 1 && problem.message.includes(error.detail)) break;
    const item = document.createElement("li");
    const where = [error.row ? `row ${error.row}` : "", error.column ? `column ${error.column}` : ""].filter(Boolean).join(", ");
    item.append(where || fieldName(error.pointer), where || error.pointer ? ": " : "", sentence(error.detail));
    list.append(item);
  }
  if (list.children.length) notice.append(list);
  notice.hidden = false;
}

/** What was caught, as a problem: an error of the script has a message and no fields. @param {unknown} caught */
export const asProblem = (caught) => (caught instanceof Problem ? caught : new Problem({ detail: caught instanceof Error ? caught.message : String(caught) }, 0));

/** A JSON Pointer as the name of a field: `/spec/training/steps` is "training, steps". @param {string} [pointer] */
const fieldName = (pointer) => (pointer || "").split("/").filter((part) => part && part !== "spec").join(", ").replaceAll("_", " ");

/**
 * Runs `act` with the button disabled; a problem is shown in the notice of `place`.
 * @param {HTMLButtonElement|HTMLInputElement|HTMLSelectElement} button
 * @param {() => Promise<unknown>} act
 * @param {HTMLElement} [place] a notice, or a form that gets one at its end
 */
export async function attempt(button, act, place = field("problem")) {
  button.disabled = true;
  const notice = noticeOf(place);
  complain(notice, null);
  try {
    await act();
  } catch (problem) {
    complain(notice, problem);
    notice.scrollIntoView({ block: "nearest" });
  }
  button.disabled = false;
}

/** @param {HTMLElement} place */
function noticeOf(place) {
  if (place.matches(".notice")) return place;
  const found = maybe(place, ":scope > .notice", HTMLElement);
  if (found) return found;
  const notice = document.createElement("div");
  notice.className = "notice";
  notice.setAttribute("role", "alert");
  place.append(notice);
  return notice;
}

/**
 * Submits a form by one request; a page without this form is left alone.
 * @param {string} name id of the form
 * @param {(controls: Record<string, Control>) => Promise<unknown>} act
 */
export function onSubmit(name, act) {
  const form = maybe(document, `form#${name}`, HTMLFormElement);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = event.submitter instanceof HTMLButtonElement ? event.submitter : find(form, "button", HTMLButtonElement);
    const controls = /** @type {Record<string, Control>} */ (/** @type {unknown} */ (form.elements));
    attempt(button, () => act(controls), form);
  });
}

/** `0, 1 2` as numbers; other words stay text, so that the service can refuse them. @param {string} text */
export const numbers = (text) =>
  text
    .split(/[\s,;]+/)
    .filter(Boolean)
    .map((word) => (Number.isNaN(Number(word)) ? word : Number(word)));

/** Copies `text`; where the browser does not allow it, selects the content of `place` instead. @param {HTMLElement} button @param {HTMLElement} place @param {string} text */
export async function copy(button, place, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(place);
  }
}
