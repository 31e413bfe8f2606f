// What the API answers, as far as the scripts of the pages read it; only the type checker reads this file. A name that
// openapi.json has as well is that schema: tests/pages/test_types.py compares the fields. The others are inside what
// OpenAPI calls an object.

type State = "queued" | "running" | "succeeded" | "failed" | "cancelled";

interface WrongField {
  pointer: string;
  detail: string;
  row?: number | null;
  column?: string | null;
}

interface OperationOut {
  state: State;
  reason?: string | null;
  answer?: unknown;
}

// --- jobs and runs

interface JobEvent {
  revision: number;
  state: State;
  progress: number;
  eta_seconds?: number | null;
  queue_position?: number | null;
  losses?: Record<string, number | null> | null;
  note?: string | null;
  reason?: string | null;
}

interface JobItem {
  id: string;
  state: State;
  progress: number;
}

interface JobPage {
  items: JobOut[];
}

interface JobOut {
  id: string;
  state: State;
  tags: string[];
  runs: number;
  progress: number;
  note?: string | null;
  eta_seconds?: number | null;
  queue_position?: number | null;
}

interface PlanOut {
  runs: number;
  steps: number;
  seconds: number | null;
  like: number;
  memory_bytes: number | null;
  notes?: string[];
}

interface RunOut {
  state: State;
  step: number;
  steps: number;
}

interface HistoryOut {
  rows: { step: number; cost_strength?: number; prediction_loss?: number }[];
}

interface SnapshotsOut {
  items: SnapshotOut[];
  next?: number | null;
}

interface SnapshotOut {
  step: number;
}

interface SnapshotWeights {
  step: number;
  weights: Record<string, Numbers>;
  orders: Record<string, number[]>;
  layers?: Layer[] | null;
  connections?: Wires[] | null;
}

/** An array, row by row. */
interface Numbers {
  shape: number[];
  values: number[];
}

/** positions: of each slot, across and, in sheets, deep */
interface Layer {
  name: string;
  neurons: number;
  copies?: number;
  positions: number[][];
}

/** A weight matrix, and the layers that it joins. */
interface Wires {
  parameter: string;
  source: string;
  target: string;
}

interface Geometry {
  layers: Layer[];
  connections: Wires[];
}

// --- the network that is left after pruning

interface GraphOut {
  graph: { layers?: { name: string }[]; names?: Record<string, NameOut>; groups?: Record<string, string> };
  nodes: Neuron[];
  edges: Connection[];
}

/** id: `layer:slot` */
interface Neuron {
  id: string;
  layer: string;
  slot: number;
  neuron: number;
  copy?: number;
  name?: string;
  mean: number;
  std: number;
  bias?: number | null;
  module?: string | null;
  group?: string | null;
}

/** effect: what the loss gains without it */
interface Connection {
  key: string;
  source: string;
  target: string;
  weight: number;
  length: number;
  effect?: number | null;
}

interface InteriorOut {
  interior: Interior | null;
}

interface Interior {
  primary: string;
  partitions?: Record<string, { verdict?: string; groups: Group[] }>;
  trees?: string[][];
}

interface Group {
  name: string;
  module?: string | null;
  neurons: string[];
  reads: { name: string }[];
}

interface ModulesOut {
  modules: ModuleOut[];
}

interface ModuleOut {
  name: string;
  neurons: string[];
  inputs: string[];
  outputs: string[];
}

interface NamesOut {
  names: Record<string, NameOut>;
}

interface NameOut {
  name: string;
  note: string;
  number: number;
}

interface InterventionOut {
  before: Record<string, number>;
  trials: TrialOut[];
}

interface TrialOut {
  metrics: Record<string, number | null>;
  effects: Record<string, number | null>;
}

interface PredictOut {
  targets: string[];
  outputs?: number[][] | null;
  probabilities?: number[][] | null;
  labels?: string[] | null;
  network_inputs?: number[][] | null;
}

/** The fields of every architecture that is computed in the browser; which of them it has, its kind says. */
interface NetworkSpec {
  kind: string;
  activation: string;
  tied: boolean;
  blocks: number;
  heads: number;
  key_value_heads?: number | null;
  rotary?: number | null;
  gated: boolean;
  layer_norm: boolean;
  norm?: string;
  norm_epsilon?: number;
  channels: number[];
  kernel: number;
  residual: boolean;
  batch_norm: boolean;
  pooling: string;
}

interface ProbeOut {
  network: NetworkSpec;
  task: string;
  loss: string;
  targets: string[];
  tokens: number | null;
  layers: Layer[];
  connections: Wires[];
  parameters: Record<string, Numbers>;
  orders: Record<string, number[]>;
  steps?: number[] | null;
  output_weights?: number[] | null;
  label_groups?: number[][];
  means?: Record<string, number[][]> | null;
  examples: { inputs: Numbers; targets: Numbers; count: number; held_out: number; of_held_out: number };
}

// --- data sets and networks

interface DatasetOut {
  id: string;
  name: string;
  kind: string;
  state: "checking" | "ready" | "refused";
  format?: string | null;
  rows?: number | null;
  roles?: Roles | null;
  notes?: string[];
  errors?: WrongField[];
}

interface NetworkOut {
  id: string;
  name: string;
  state: "checking" | "ready" | "refused";
  format: string;
  parameters?: number | null;
  input?: { shape: (number | null)[] } | null;
  output?: { shape: (number | null)[] } | null;
  errors?: WrongField[];
}

interface PreviewOut {
  rows?: number | null;
  columns: PreviewColumn[];
  first_rows: Record<string, unknown>[];
  missing_notes: string[];
}

interface PreviewColumn {
  name: string;
  type: string;
  missing?: number | null;
  notation?: string | null;
  notes?: string[];
  min?: number | null;
  max?: number | null;
  shape?: number[] | null;
  most?: string[] | null;
  counts?: number[] | null;
  bins?: number[] | null;
  earliest?: string | null;
  latest?: string | null;
}

interface Roles {
  inputs?: string[] | null;
  targets?: string[] | null;
  task?: string | null;
  standardise?: boolean;
  columns?: Record<string, ColumnSpec>;
}

interface ColumnSpec {
  type?: string;
  notation?: string | null;
}

// --- models and the team

interface VersionOut {
  model_id: string;
  number: number;
}

interface ShareMinted {
  url: string;
}

interface TokenMinted {
  name: string;
  token: string;
}

interface MemberMade {
  name: string;
  token: string;
}

interface WebhookMade {
  url: string;
  secret: string;
}
