// Data sets and networks: the upload of files, with progress and the errors of their check; and the page of one of them.
// The format of a file is found from its bytes; IDX arrays are collected until images and labels fit together.

import { Problem, attempt, call, complain, counted, csrf, field, find, maybe, number, pause } from "./api.js";
import { svgElement } from "./instrument/plot.js";

/** @typedef {DatasetOut|NetworkOut} Made what the service makes of a file */
/** @typedef {{file: File, packed: boolean, shape: number[]}} IdxArray */

/** A file was uploaded and checked; what takes it prevents the default, which is to show its page. */
export class Uploaded extends Event {
  /** @param {Made} detail @param {string} noun "datasets" or "networks" */
  constructor(detail, noun) {
    super("uploaded", { bubbles: true, cancelable: true });
    this.detail = detail;
    this.noun = noun;
  }
}

const panel = document.getElementById("upload"); // null on the page of a single data set; the other elements are inside it

/** @param {File} file */
const nounOf = (file) => (/\.(onnx|safetensors)$/i.test(file.name) ? "networks" : "datasets");

// --- what a file is, by its bytes

/** @type {Record<number, number>} */
const IDX_BYTES = { 0x08: 1, 0x09: 1, 0x0b: 2, 0x0c: 4, 0x0d: 4, 0x0e: 8 }; // type of an IDX array → bytes of a number
const LIST_BYTES = 16 << 20; // of the list at the end of an archive; 100 000 names take less
const IMAGES = /\.(png|jpe?g|gif|bmp)$/i;
const TABLES = /\.(csv|tsv|tab)$/i;

/** @param {Blob} file */
const isPacked = async (file) => (await bytesOf(file, 0, 2)).join() === "31,139";
/** @param {Blob} file @param {number} start @param {number} end */
const bytesOf = async (file, start, end) => new Uint8Array(await file.slice(start, end).arrayBuffer());
/** @param {Blob} file */
const unpacked = (file) => file.stream().pipeThrough(new DecompressionStream("gzip"));

/**
 * The single array that a file is in IDX, plain or by gzip; null for every other file, and for several arrays in one.
 * @param {File} file
 * @returns {Promise<?IdxArray>}
 */
async function idxArray(file) {
  const packed = await isPacked(file);
  const reader = (packed ? unpacked(file) : file.stream()).getReader();
  let [head, length, whole] = [new Uint8Array(0), 0, Infinity];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (head.length < 32) head = Uint8Array.from([...head, ...value.subarray(0, 32)]);
      if (head.length >= 4 && (head[0] || head[1] || !(head[2] in IDX_BYTES) || head[3] < 1 || head[3] > 5)) return null;
      if (head.length >= 24) whole = lengthOf(head);
      if (length > whole) return null; // another array follows: the file is joined already
    }
  } catch {
    return null; // damaged: the service says so, in its words
  } finally {
    reader.cancel().catch(() => {});
  }
  return head.length >= 8 && lengthOf(head) === length ? { file, packed, shape: shapeOf(head) } : null;
}

/** @param {Uint8Array} head */
const shapeOf = (head) => Array.from({ length: head[3] }, (_, axis) => new DataView(head.buffer).getUint32(4 + 4 * axis));
/** @param {Uint8Array} head */
const lengthOf = (head) => 4 + 4 * head[3] + IDX_BYTES[head[2]] * shapeOf(head).reduce((product, size) => product * size, 1);

/**
 * The format of a ZIP archive of images, texts or one table, by the names in it; "" for every other file, which the service
 * tells by its name and its own look at the bytes.
 * @param {File} file
 */
async function formatOfArchive(file) {
  if ((await bytesOf(file, 0, 4)).join() !== "80,75,3,4") return "";
  const end = await bytesOf(file, Math.max(0, file.size - 65_558), file.size);
  let at = end.length - 22;
  while (at >= 0 && !(end[at] === 0x50 && end[at + 1] === 0x4b && end[at + 2] === 5 && end[at + 3] === 6)) at -= 1;
  if (at < 0) return "";
  const record = new DataView(end.buffer, at);
  const [size, start] = [record.getUint32(12, true), record.getUint32(16, true)];
  const list = await bytesOf(file, start, start + Math.min(size, LIST_BYTES));
  const names = [];
  for (let from = 0; from + 46 <= list.length; ) {
    const entry = new DataView(list.buffer, from);
    if (entry.getUint32(0, true) !== 0x02014b50) break;
    const length = entry.getUint16(28, true);
    names.push(new TextDecoder().decode(list.subarray(from + 46, from + 46 + length)));
    from += 46 + length + entry.getUint16(30, true) + entry.getUint16(32, true);
  }
  const files = names.filter((name) => !name.endsWith("/") && !name.split("/").some((part) => part.startsWith(".") || part === "__MACOSX"));
  if (!files.length || files.some((name) => name.endsWith(".npy") || name === "[Content_Types].xml")) return "";
  if (files.filter((name) => IMAGES.test(name)).length > files.length / 2) return "images";
  return files.length === 1 && TABLES.test(files[0]) ? "csv" : "text";
}

// --- IDX arrays that come in files of their own

/** @type {IdxArray[]} */
let arrays = [];

/** @param {IdxArray} array */
const isOfTest = ({ file }) => /t10k|test/i.test(file.name);

/** Images with the labels of as many examples: the larger pair first, which is for training. */
function pairs() {
  const left = arrays.filter(({ shape }) => shape.length === 1);
  /** @type {{images: IdxArray, labels: IdxArray|undefined}[]} */
  const found = [];
  for (const images of arrays.filter(({ shape }) => shape.length > 1)) {
    const fitting = left.filter(({ shape }) => shape[0] === images.shape[0]);
    const labels = fitting.find((each) => isOfTest(each) === isOfTest(images)) ?? fitting[0];
    if (labels) left.splice(left.indexOf(labels), 1);
    found.push({ images, labels });
  }
  found.sort((a, b) => b.images.shape[0] - a.images.shape[0] || Number(isOfTest(a.images)) - Number(isOfTest(b.images)));
  return { found, alone: left };
}

/** @param {IdxArray} found */
function collect(found) {
  /** @param {IdxArray} each */
  const same = (each) => each.file.name === found.file.name && each.shape.join() === found.shape.join();
  arrays = [...arrays.filter((each) => !same(each)), found];
}

function forget() {
  arrays = [];
  field("upload-parts").hidden = true;
}

/** Sends the arrays when they are all there; else says which are missing. `some`: what is there is enough. @param {boolean} some */
async function sendArrays(some) {
  const { found, alone } = pairs();
  const whole = found.flatMap(({ images, labels }) => (labels ? [[images, labels]] : []));
  const complete = !alone.length && whole.length === found.length;
  if (!((complete && whole.length === 2) || (some && whole.length))) {
    const received = [
      ...found.map(({ images, labels }) => `${counted(images.shape[0])} images of ${images.shape.slice(1).join(" × ")} pixels${labels ? " with their labels" : ""}`),
      ...alone.map(({ shape }) => `${counted(shape[0])} labels`),
    ];
    const missing = [
      ...found.filter(({ labels }) => !labels).map(({ images }) => `the labels of the ${counted(images.shape[0])} images`),
      ...alone.map(({ shape }) => `the ${counted(shape[0])} images of the labels`),
    ];
    const also = complete ? "Add the images and labels for testing, or use only these: part of them is then held out for testing." : `Still missing: ${missing.join("; ")}.`;
    field("upload-parts-words").textContent = `Received: ${received.join("; ")}. ${also}`;
    field("upload-parts-use").hidden = !whole.length;
    field("upload-parts").hidden = false;
    return "";
  }
  const parts = whole.slice(0, 2).flat();
  const packed = parts.every((part) => part.packed);
  const contents = packed ? parts.map(({ file }) => file) : await Promise.all(parts.map(({ file, packed: its }) => (its ? new Response(unpacked(file)).blob() : file)));
  const shape = parts[0].shape.join();
  const name = shape === "60000,28,28" ? "MNIST" : parts[0].file.name.replace(/(-ubyte)?(\.gz)?$/i, "").slice(0, 100);
  forget();
  return upload(new File(contents, `${name}.idx${packed ? ".gz" : ""}`), "idx", name);
}

// --- sending

/** @param {File} file @param {string} format @param {string} name @returns {Promise<Made>} */
function send(file, format, name) {
  return new Promise((done, refuse) => {
    const request = new XMLHttpRequest(); // fetch reports no progress of an upload
    request.open("POST", `/api/v1/${nounOf(file)}`);
    request.setRequestHeader("X-CSRFToken", csrf());
    request.upload.addEventListener("progress", (event) => {
      bar().value = event.loaded / event.total;
      say(event.loaded < event.total ? `Uploading ${name}: ${Math.round((100 * event.loaded) / event.total)}%` : `Reading ${name} …`);
    });
    request.addEventListener("load", () => {
      let document;
      try {
        document = JSON.parse(request.responseText);
      } catch {
        document = { detail: `The service answered ${request.status}.` };
      }
      if (request.status < 300) done(document);
      else refuse(new Problem(document, request.status));
    });
    request.addEventListener("error", () => refuse(new Problem({ detail: "The upload was interrupted. Check the network and try again." }, 0)));
    const form = new FormData();
    form.append("name", name);
    if (format) form.append("format", format);
    form.append("file", file);
    request.send(form);
  });
}

/** @param {string} words */
const say = (words) => (field("upload-words").textContent = words);
const bar = () => find(field("upload-progress"), "progress", HTMLProgressElement);

/** @param {Made} made @param {string} noun */
async function checked(made, noun) {
  while (made.state === "checking") {
    say("It is being checked …");
    await pause(1500);
    made = await call("GET", `/${noun}/${made.id}`);
  }
  if (made.state === "refused") throw new Problem({ detail: "The file cannot be used.", errors: made.errors }, 422);
  return made;
}

/** @param {File} file @param {string} format @param {string} [name] */
async function upload(file, format, name = file.name.slice(0, 120)) {
  const limit = Number(field("upload").dataset.limit);
  if (file.size > limit) throw new Problem({ detail: `${name} is larger than the ${counted(limit)} bytes that are allowed.` }, 413);
  field("upload-progress").hidden = bar().hidden = false;
  const noun = nounOf(file);
  const made = await checked(await send(file, format, name), noun);
  say(`${name} is ready.`);
  bar().hidden = true;
  return field("upload").dispatchEvent(new Uploaded(made, noun)) ? `/${noun}/${made.id}` : "";
}

/** @param {File[]} files */
async function take(files) {
  complain(field("upload-problem"), null);
  const pages = []; // of what was uploaded, where no form takes it
  let sent = files[0]; // the one that a problem is about
  try {
    for (const file of files) {
      sent = file;
      const array = nounOf(file) === "datasets" ? await idxArray(file) : null;
      if (array) collect(array);
      else pages.push(await upload(file, nounOf(file) === "datasets" ? await formatOfArchive(file) : ""));
    }
    if (arrays.length) pages.push(await sendArrays(false));
    open(pages);
  } catch (problem) {
    complain(field("upload-problem"), problem);
    field("upload-progress").hidden = true;
    field("upload").dispatchEvent(new CustomEvent("refused", { bubbles: true, detail: { name: sent.name, noun: nounOf(sent) } }));
  } finally {
    field("file", HTMLInputElement).value = "";
  }
}

/** Goes to the page of what was uploaded, or to the list of several. @param {string[]} pages */
function open(pages) {
  const there = pages.filter(Boolean);
  if (there.length) location.assign(there.length === 1 ? there[0] : "/datasets");
}

if (panel) {
  const drop = find(panel, ".drop", HTMLElement);
  const input = field("file", HTMLInputElement);
  input.addEventListener("change", () => take([...(input.files ?? [])]));
  for (const name of ["dragover", "dragenter"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...(event.dataTransfer?.files ?? [])]);
  });
  const use = field("upload-parts-use", HTMLButtonElement);
  use.addEventListener("click", () => attempt(use, async () => open([await sendArrays(true)]), field("upload-problem")));
  field("upload-parts-drop").addEventListener("click", forget);
}

// --- the columns of a table

// What a column is and, where that can be either, how its numbers or dates are written.
/** @type {Record<string, string>} */
export const TYPES = {
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

const BARS = [120, 26]; // as in api/pages/charts.py

/** The values of a column as bars, as `histogram` in api/pages/charts.py draws them; null where the preview has no counts. @param {PreviewColumn} column @param {?number} [rows] */
export function bars(column, rows) {
  /** @type {[count: number, word: string][]} */
  let shown;
  let words;
  if (column.bins) {
    shown = column.bins.map((count) => [count, ""]);
    words = `${shown.length} parts from ${column.earliest ?? number(column.min)} to ${column.latest ?? number(column.max)}`;
  } else if (column.counts && column.most) {
    const { most } = column;
    shown = column.counts.map((count, at) => [count, most[at].slice(0, 40)]);
    const left = (rows ?? 0) - (column.missing ?? 0) - column.counts.reduce((sum, count) => sum + count, 0);
    if (left > 0) shown.push([left, "others"]);
    words = shown.map(([count, word]) => `${word} ${count}`).join(", ");
  } else return null;
  const [width, most] = [BARS[0] / shown.length, Math.max(1, ...shown.map(([count]) => count))];
  const svg = svgElement("svg", { class: "bars", viewBox: `0 0 ${BARS.join(" ")}`, role: "img", "aria-label": `${column.name}: ${words}` });
  svg.append(
    ...shown.map(([count, word], at) => {
      const height = (BARS[1] * count) / most;
      const bar = svgElement("rect", { x: at * width, y: BARS[1] - height, width: Math.max(0.5, width - 1), height });
      if (at === shown.length - 1 && word === "others") bar.setAttribute("class", "others");
      const title = svgElement("title", {});
      title.textContent = word ? `${word}: ${count}` : String(count);
      bar.append(title);
      return bar;
    }),
  );
  return svg;
}

// --- the page of one data set or network: it appears when its check has ended, and can be deleted

const state = document.getElementById("state");
const button = maybe(document, "#delete", HTMLButtonElement);

async function watch() {
  while (state?.dataset.state === "checking") {
    await pause(1500);
    try {
      /** @type {Made} */
      const now = await call("GET", state.dataset.address ?? "");
      if (now.state !== "checking") location.reload();
    } catch {
      // the next poll may succeed
    }
  }
}

button?.addEventListener("click", () => {
  if (!confirm(`Delete ${button.dataset.name}? Jobs and models that used it keep their results, but can no longer be verified, and the service computes no more effects for them.`)) return;
  attempt(button, () => call("DELETE", button.dataset.address ?? "").then(() => location.assign("/datasets")));
});

watch();
