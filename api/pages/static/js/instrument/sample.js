// The probe's examples and the worker that computes on them. Of questions of one kind that wait, only the newest is asked.

/** Answers of the worker, one question at a time. */
export class Sample {
  /** @param {string} address of the probe, below /api/v1 */
  constructor(address) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    [this.next, this.asked, this.waiting] = [0, null, new Map()];
    this.worker.addEventListener("message", ({ data }) => this.take(data));
    this.worker.addEventListener("error", () => this.asked?.refuse(new Error("The examples could not be computed here.")));
    /** @type {Promise<{computed: boolean, geometry: object, before: Record<string, number>, ranges: object, heldOut: number, ofHeldOut: number}>} */
    this.ready = this.ask("load", { address });
  }

  /**
   * @param {"load"|"trial"|"row"|"cut"|"harm"|"curve"} kind
   * @param {object} asked
   * @returns {Promise<?object>} null where a newer question has replaced this one
   */
  ask(kind, asked) {
    return new Promise((done, refuse) => {
      this.waiting.get(kind)?.done(null);
      this.waiting.set(kind, { kind, asked, done, refuse });
      this.send();
    });
  }

  send() {
    if (this.asked || !this.waiting.size) return;
    const kind = ["load", "trial", "row", "cut", "harm", "curve"].find((each) => this.waiting.has(each)); // the most urgent first
    this.asked = this.waiting.get(kind);
    this.waiting.delete(kind);
    this.worker.postMessage({ id: ++this.next, kind, ...this.asked.asked });
  }

  take({ answer, problem }) {
    const { done, refuse } = this.asked;
    this.asked = null;
    if (problem) refuse(new Error(problem));
    else done(answer);
    this.send();
  }
}
