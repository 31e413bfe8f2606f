// The pruned network as a graph: its connections, and the parts it consists of. Nothing here reads the page.

/**
 * A cluster of neurons at one level; number: of its colour and shape; given and note: what people call it and say of it.
 * @typedef {{name: string, role: string, neurons: string[], number?: number, given?: string, note?: string}} Part
 * @typedef {"outputs"|"groups"|"trees"} Level
 */

/** A network's kept connections, lightest first, with its neurons by id. */
export class Circuit {
  /**
   * @param {GraphOut} graph the answer of …/graph
   * @param {?Interior} interior the document of …/interior
   * @param {ModuleOut[]} modules those of …/modules
   */
  constructor(graph, interior, modules) {
    this.neurons = new Map(graph.nodes.map((neuron) => [neuron.id, neuron]));
    this.connections = [...graph.edges].sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight) || (a.key < b.key ? -1 : 1));
    this.byKey = new Map(this.connections.map((each) => [each.key, each]));
    /** @type {Map<string, Connection[]>} */
    this.entering = new Map();
    /** @type {Map<string, Connection[]>} */
    this.leaving = new Map();
    for (const each of this.connections) {
      push(this.entering, each.target, each);
      push(this.leaving, each.source, each);
    }
    this.layers = graph.graph.layers?.map((layer) => layer.name) ?? [...new Set(graph.nodes.map((neuron) => neuron.layer))];
    /** @type {Record<Level, Part[]>} */
    this.levels = { outputs: ofModules(modules), groups: ofGroups(graph, interior, modules), trees: this.ofTrees(interior) };
    const numbers = partNumbers([...this.levels.outputs, ...this.levels.groups].map(({ name }) => name));
    for (const part of [...this.levels.outputs, ...this.levels.groups]) part.number = numbers.get(part.name);
    this.levels.trees.forEach((part, number) => (part.number = number));
    this.name(graph.graph.names ?? {});
    /** @type {?number} */
    this.cost = null; // of all connections, once it is asked for
    const rejected = interior?.partitions?.[interior.primary]?.verdict === "not supported";
    // The level that is shown first: groups unless the tests rejected them, so that colours and verdict agree.
    /** @type {Level} */
    this.first = this.levels.groups.length && !rejected ? "groups" : "outputs";
  }

  /** Takes over what people call the parts, and say of them. @param {NamesOut["names"]} names */
  name(names) {
    for (const part of Object.values(this.levels).flat()) Object.assign(part, { given: names[part.name]?.name ?? "", note: names[part.name]?.note ?? "" });
  }

  /** A neuron that the graph has. @param {string} id */
  neuron(id) {
    const found = this.neurons.get(id);
    if (!found) throw new RangeError(`The network has no neuron ${id}.`);
    return found;
  }

  /** A name, or layer and slot; an output that has the name of an input is marked. @param {string} id */
  called(id) {
    const { name, layer } = this.neuron(id);
    if (!name) return id.replace(":", " ");
    const doubled = layer === this.layers.at(-1) && layer !== this.layers[0] && [...this.neurons.values()].some((other) => other.layer === this.layers[0] && other.name === name);
    return doubled ? `${name} (output)` : name;
  }

  /** Connections that enter a neuron, the heaviest first. @param {string} id */
  into(id) {
    return [...(this.entering.get(id) ?? [])].reverse();
  }

  /** Those that leave it. @param {string} id */
  outOf(id) {
    return [...(this.leaving.get(id) ?? [])].reverse();
  }

  /** Whether a connection touches it. @param {string} id */
  isWired(id) {
    return this.entering.has(id) || this.leaving.has(id);
  }

  /** The cost of a connection as a share of what all kept ones cost. @param {Connection} connection @param {{locality: number, spacing: number}} of */
  costShare(connection, { locality, spacing }) {
    /** @param {Connection} each */
    const cost = (each) => Math.abs(each.weight) * (locality * each.length + spacing);
    this.cost ??= this.connections.reduce((sum, each) => sum + cost(each), 0);
    return this.cost ? cost(connection) / this.cost : 0;
  }

  /**
   * The connected components of the heaviest `count` connections that hold an output. All copies of a neuron are one.
   * @param {number} count
   * @returns {{count: number, of: Map<string, number>}} of: neuron → number of its component, in the order of their outputs
   */
  components(count) {
    /** @type {Map<string, string>} */
    const parent = new Map();
    /** @param {string} id */
    const find = (id) => {
      let root = id;
      for (let next; (next = parent.get(root)) !== undefined; ) root = next;
      for (let each = id; each !== root; ) {
        const next = parent.get(each) ?? root;
        parent.set(each, root);
        each = next;
      }
      return root;
    };
    /** @param {string} a @param {string} b */
    const join = (a, b) => {
      const [one, other] = [find(a), find(b)];
      if (one !== other) parent.set(one, other);
    };
    /** @type {Map<string, string>} */
    const first = new Map(); // layer and neuron → its first copy
    for (const { id, layer, neuron, copy } of this.neurons.values()) {
      const name = `${layer}:${neuron}`;
      const other = copy && first.get(name);
      if (other) join(id, other);
      else first.set(name, id);
    }
    const kept = this.connections.slice(this.connections.length - count);
    const touched = new Set();
    for (const { source, target } of kept) {
      join(source, target);
      touched.add(source).add(target);
    }
    /** @type {Map<string, number>} */
    const numbers = new Map();
    for (const { id, layer } of this.neurons.values()) {
      if (layer === this.layers.at(-1) && touched.has(id) && !numbers.has(find(id))) numbers.set(find(id), numbers.size);
    }
    /** @type {Map<string, number>} */
    const of = new Map();
    for (const id of touched) {
      const number = numbers.get(find(id));
      if (number !== undefined) of.set(id, number);
    }
    return { count: numbers.size, of };
  }

  /** @param {?Interior} interior @returns {Part[]} */
  ofTrees(interior) {
    return (interior?.trees ?? []).map((neurons, number) => {
      const inside = new Set(neurons);
      const reads = new Set(neurons.flatMap((id) => this.into(id)).filter(({ source }) => !inside.has(source)).map(({ source }) => this.called(source)));
      return { name: `T${number + 1}`, role: `reads ${listed([...reads])}`, neurons };
    });
  }
}

/** @template T @param {Map<string, T[]>} map @param {string} key @param {T} value */
function push(map, key, value) {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}

/** @param {ModuleOut[]} modules @returns {Part[]} */
const ofModules = (modules) => modules.map(({ name, neurons, inputs, outputs }) => ({ name, role: `${listed(inputs)} → ${listed(outputs)}`, neurons }));

/** The groups inside modules; a module without groups stands for itself. @param {GraphOut} graph @param {?Interior} interior @param {ModuleOut[]} modules @returns {Part[]} */
function ofGroups(graph, interior, modules) {
  const labels = graph.graph.groups ?? {};
  const primary = interior?.partitions?.[interior.primary];
  const described = new Map((primary?.groups ?? []).map((group) => [group.name, group]));
  /** @type {Map<string, string[]>} */
  const found = new Map();
  for (const neuron of graph.nodes) if (neuron.group) push(found, neuron.group, neuron.id);
  for (const [name, group] of described) if (!found.has(name)) found.set(name, group.neurons);
  for (const { name, neurons } of modules) if (found.has(name)) found.set(name, neurons); // a group that is a whole module
  if (!found.size) return [];
  const divided = new Set(graph.nodes.filter((neuron) => neuron.group).map((neuron) => neuron.module).concat([...described.values()].map((group) => group.module)));
  const whole = ofModules(modules.filter(({ name }) => !divided.has(name)));
  const groups = [...found].map(([name, neurons]) => ({ name, role: labels[name] ?? readsOf(described.get(name)), neurons }));
  return [...groups, ...whole].sort((a, b) => a.name.length - b.name.length || (a.name < b.name ? -1 : 1));
}

/** @param {Group} [group] */
const readsOf = (group) => (group ? `reads ${listed(group.reads.map((read) => read.name))}` : "");

/** Name → number of its colour and shape, as `part_numbers` in bimt_engine/analysis/graph.py gives them. @param {string[]} names */
function partNumbers(names) {
  /** @type {Map<string, number>} */
  const found = new Map();
  const moduleOf = (/** @type {string} */ name) => name.replace(/\d+$/, "");
  for (const name of names) found.set(moduleOf(name), [...moduleOf(name)].reduce((number, letter) => 26 * number + letter.charCodeAt(0) - 64, 0) - 1);
  const after = Math.max(-1, ...found.values()) + 1;
  /** @param {string} name */
  const place = (name) => [found.get(moduleOf(name)) ?? 0, Number(name.slice(moduleOf(name).length))];
  const groups = [...new Set(names)].filter((name) => name !== moduleOf(name));
  for (const name of groups) if (name === `${moduleOf(name)}1`) found.set(name, place(name)[0]);
  const further = groups.filter((name) => !found.has(name)).map((name) => ({ name, at: place(name) }));
  further.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1]).forEach(({ name }, index) => found.set(name, after + index));
  return found;
}

/** A part by its letter and by the name that people gave it: `A · adder`. @param {Part} part */
export const partName = ({ name, given }) => (given ? `${name} · ${given}` : name);

/** `a, b and 3 more`. @param {string[]} names */
export function listed(names, most = 3) {
  const shown = names.slice(0, most).join(", ");
  return names.length > most ? `${shown} and ${names.length - most} more` : shown || "nothing";
}
