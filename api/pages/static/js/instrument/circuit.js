// The pruned network as a graph: its connections, and the parts it consists of. Nothing here reads the page.

/**
 * A connection of the graph document: source, target, weight, length, effect (what the loss gains without it), key.
 * @typedef {{key: string, source: string, target: string, weight: number, length: number, effect: ?number}} Connection
 * A cluster of neurons at one level.
 * @typedef {{name: string, role: string, neurons: string[], given: string, note: string}} Part
 * given and note: what people call it and say of it
 */

/** A network's kept connections, lightest first, with its neurons by id. */
export class Circuit {
  /**
   * @param {object} graph the answer of …/graph
   * @param {?object} interior the document of …/interior
   * @param {object[]} modules those of …/modules
   */
  constructor(graph, interior, modules) {
    this.neurons = new Map(graph.nodes.map((neuron) => [neuron.id, neuron]));
    /** @type {Connection[]} */
    this.connections = [...graph.edges].sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight) || (a.key < b.key ? -1 : 1));
    this.byKey = new Map(this.connections.map((each) => [each.key, each]));
    [this.entering, this.leaving] = [new Map(), new Map()];
    for (const each of this.connections) {
      push(this.entering, each.target, each);
      push(this.leaving, each.source, each);
    }
    this.layers = graph.graph.layers?.map((layer) => layer.name) ?? [...new Set(graph.nodes.map((neuron) => neuron.layer))];
    this.levels = { outputs: ofModules(modules), groups: ofGroups(graph, interior, modules), trees: this.ofTrees(interior) };
    this.name(graph.graph.names ?? {});
    const rejected = interior?.partitions?.[interior.primary]?.verdict === "not supported";
    // The level that is shown first: groups unless the tests rejected them, so that colours and verdict agree.
    this.first = this.levels.groups.length && !rejected ? "groups" : "outputs";
  }

  /** Takes over what people call the parts, and say of them. @param {Record<string, {name: string, note: string, number?: number}>} names */
  name(names) {
    for (const part of Object.values(this.levels).flat()) Object.assign(part, { given: names[part.name]?.name ?? "", note: names[part.name]?.note ?? "" });
  }

  /** @returns {string} a name, or layer and slot; an output that has the name of an input is marked */
  called(id) {
    const { name, layer } = this.neurons.get(id);
    if (!name) return id.replace(":", " ");
    const doubled = layer === this.layers.at(-1) && layer !== this.layers[0] && [...this.neurons.values()].some((other) => other.layer === this.layers[0] && other.name === name);
    return doubled ? `${name} (output)` : name;
  }

  /** @returns {Connection[]} those that enter a neuron, the heaviest first */
  into(id) {
    return [...(this.entering.get(id) ?? [])].reverse();
  }

  /** @returns {Connection[]} those that leave it */
  outOf(id) {
    return [...(this.leaving.get(id) ?? [])].reverse();
  }

  /** @returns {boolean} whether a connection touches it */
  isWired(id) {
    return this.entering.has(id) || this.leaving.has(id);
  }

  /** The cost of a connection as a share of what all kept ones cost. */
  costShare(connection, { locality, spacing }) {
    const cost = (each) => Math.abs(each.weight) * (locality * each.length + spacing);
    this.cost ??= this.connections.reduce((sum, each) => sum + cost(each), 0);
    return this.cost ? cost(connection) / this.cost : 0;
  }

  /**
   * The connected components of the heaviest `count` connections that hold an output. All copies of a neuron are one.
   * @returns {{count: number, of: Map<string, number>}} of: neuron → number of its component, in the order of their outputs
   */
  components(count) {
    const parent = new Map();
    const find = (id) => {
      let root = id;
      while (parent.has(root)) root = parent.get(root);
      for (let each = id; each !== root; ) {
        const next = parent.get(each);
        parent.set(each, root);
        each = next;
      }
      return root;
    };
    const join = (a, b) => {
      const [one, other] = [find(a), find(b)];
      if (one !== other) parent.set(one, other);
    };
    const first = new Map(); // layer and neuron → its first copy
    for (const { id, layer, neuron, copy } of this.neurons.values()) {
      const name = `${layer}:${neuron}`;
      if (copy && first.has(name)) join(id, first.get(name));
      else first.set(name, id);
    }
    const kept = this.connections.slice(this.connections.length - count);
    const touched = new Set();
    for (const { source, target } of kept) {
      join(source, target);
      touched.add(source).add(target);
    }
    const numbers = new Map();
    for (const { id, layer } of this.neurons.values()) {
      if (layer === this.layers.at(-1) && touched.has(id) && !numbers.has(find(id))) numbers.set(find(id), numbers.size);
    }
    const of = new Map();
    for (const id of touched) if (numbers.has(find(id))) of.set(id, numbers.get(find(id)));
    return { count: numbers.size, of };
  }

  ofTrees(interior) {
    return (interior?.trees ?? []).map((neurons, number) => {
      const inside = new Set(neurons);
      const reads = new Set(neurons.flatMap((id) => this.into(id)).filter(({ source }) => !inside.has(source)).map(({ source }) => this.called(source)));
      return { name: `T${number + 1}`, role: `reads ${listed([...reads])}`, neurons };
    });
  }
}

function push(map, key, value) {
  if (map.has(key)) map.get(key).push(value);
  else map.set(key, [value]);
}

const ofModules = (modules) => modules.map(({ name, neurons, inputs, outputs }) => ({ name, role: `${listed(inputs)} → ${listed(outputs)}`, neurons }));

// The groups inside modules; a module without groups stands for itself.
function ofGroups(graph, interior, modules) {
  const labels = graph.graph.groups ?? {};
  const primary = interior?.partitions?.[interior.primary];
  const described = new Map((primary?.groups ?? []).map((group) => [group.name, group]));
  const found = new Map();
  for (const neuron of graph.nodes) if (neuron.group) push(found, neuron.group, neuron.id);
  for (const [name, group] of described) if (!found.has(name)) found.set(name, group.neurons);
  for (const { name, neurons } of modules) if (found.has(name)) found.set(name, neurons); // a group that is a whole module
  if (!found.size) return [];
  const divided = new Set(graph.nodes.filter((neuron) => neuron.group).map((neuron) => neuron.module).concat([...described.values()].map((group) => group.module)));
  const whole = ofModules(modules.filter(({ name }) => !divided.has(name)));
  const groups = [...found].map(([name, neurons]) => ({ name, role: labels[name] ?? (described.has(name) ? `reads ${listed(described.get(name).reads.map((read) => read.name))}` : ""), neurons }));
  return [...groups, ...whole].sort((a, b) => a.name.length - b.name.length || (a.name < b.name ? -1 : 1));
}

/** A part by its letter and by the name that people gave it: `A · adder`. @param {Part} part */
export const partName = ({ name, given }) => (given ? `${name} · ${given}` : name);

/** `a, b and 3 more` */
export function listed(names, most = 3) {
  const shown = names.slice(0, most).join(", ");
  return names.length > most ? `${shown} and ${names.length - most} more` : shown || "nothing";
}
