// The probe's examples and the worker that computes on them. Of questions of one kind that wait, only the newest is asked.

/**
 * @typedef {import("./worker.js").Answers} Answers
 * @typedef {keyof Answers} Kind
 * @typedef {{kind: Kind, asked: object, done: (answer: any) => void, refuse: (problem: Error) => void}} Question any: by its kind
 */

/** @type {Kind[]} */
const KINDS = ["load", "trial", "row", "cut", "harm", "curve"]; // the most urgent first

/** Answers of the worker, one question at a time. */
export class Sample {
  /** @param {string} address of the probe, below /api/v1 */
  constructor(address) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.next = 0;
    /** @type {?Question} */
    this.asked = null;
    /** @type {Map<Kind, Question>} */
    this.waiting = new Map();
    this.worker.addEventListener("message", ({ data }) => this.take(data));
    this.worker.addEventListener("error", () => this.asked?.refuse(new Error("The examples could not be computed here.")));
    /** @type {Promise<import("./worker.js").Loaded>} */
    this.ready = this.ask("load", { address }).then((loaded) => loaded ?? Promise.reject(new Error("The examples were asked for again.")));
  }

  /**
   * @template {Kind} K
   * @param {K} kind
   * @param {Parameters<Answers[K]>[0]} asked
   * @returns {Promise<?Awaited<ReturnType<Answers[K]>>>} null where a newer question has replaced this one
   */
  ask(kind, asked) {
    return new Promise((done, refuse) => {
      this.waiting.get(kind)?.done(null);
      this.waiting.set(kind, { kind, asked, done, refuse });
      this.send();
    });
  }

  send() {
    if (this.asked) return;
    const kind = KINDS.find((each) => this.waiting.has(each));
    const question = kind && this.waiting.get(kind);
    if (!question) return;
    this.asked = question;
    this.waiting.delete(question.kind);
    this.worker.postMessage({ id: ++this.next, kind, ...question.asked });
  }

  /** @param {{answer?: unknown, problem?: string}} data */
  take({ answer, problem }) {
    if (!this.asked) return;
    const { done, refuse } = this.asked;
    this.asked = null;
    if (problem) refuse(new Error(problem));
    else done(answer);
    this.send();
  }
}
