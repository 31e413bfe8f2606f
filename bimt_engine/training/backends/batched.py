"""The stepper for perceptrons on any device: gradients written out by hand, all replicas in one operation.

No graph is recorded and next to nothing is allocated: a step is some twenty tensor operations on buffers that are kept.
On a GPU the replica axis is what makes small networks worth one; on a CPU this runs where there is no compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.backends import WEIGHTED_ROWS, Stepper, computation_of
from bimt_engine.training.backends.autograd import optimiser_step
from bimt_engine.training.batches import STEPS_AT_ONCE, TensorData
from bimt_engine.training.state import TrainingState

aten = torch.ops.aten

# (z, out) writes the activation; (gradient, z, activation) turns the gradient into the one before it, in place.
# The overloads are named in full: to find them by their arguments would cost as much as the work.
FORWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": lambda z, out: aten.silu.out(z, out=out),
    "relu": lambda z, out: torch.clamp(z, min=0, out=out),
    "tanh": lambda z, out: torch.tanh(z, out=out),
    "gelu": lambda z, out: aten.gelu.out(z, out=out),
    "gelu_tanh": lambda z, out: aten.gelu.out(z, approximate="tanh", out=out),
}
BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "silu": lambda g, z, h: aten.silu_backward.grad_input(g, z, grad_input=g),
    "relu": lambda g, z, h: aten.threshold_backward.grad_input(g, z, 0, grad_input=g),
    "tanh": lambda g, z, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
    "gelu": lambda g, z, h: aten.gelu_backward.grad_input(g, z, grad_input=g),
    "gelu_tanh": lambda g, z, h: aten.gelu_backward.grad_input(g, z, approximate="tanh", grad_input=g),
}


class BatchedStepper(Stepper):
    """Many optimiser steps in place, all replicas side by side."""

    name = "batched"
    side_by_side = True

    @staticmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """None for a perceptron; otherwise the reason why not."""
        if dataset.train_weights is not None:
            return WEIGHTED_ROWS
        if computation_of(network) != "perceptron":
            return f"it supports perceptrons only, not a {network.kind}"
        return None

    def __init__(self, state: TrainingState, data: TensorData, training: TrainingSpec) -> None:
        network = state.network
        chain = network.wiring.chain
        assert chain is not None  # `supports` has answered for it
        self.state, self.data, self.optimiser = state, data, training.optimiser
        self.embedded, self.copies = chain.embedding is not None, chain.copies
        self.layers = len(network.weights)
        self.forward, self.backward = FORWARD[chain.activation], BACKWARD[chain.activation]
        self.replicas = state.replicas
        self.lone = self.replicas == 1  # one replica: plain matrices, whose operations cost less to call
        self.gradient, self.sign = torch.zeros_like(state.theta), torch.empty_like(state.theta)
        self.number = torch.zeros((), dtype=torch.float32, device=state.theta.device)  # float32 counts to 16 million
        self.weights, self.biases = self._named(state.theta)
        self.weight_gradients, self.bias_gradients = self._named(self.gradient)
        self.turned = [weight.mT for weight in self.weights]
        self.frozen: Tensor | None = None
        self.examples = data.batch_size or data.examples
        widths = [weight.shape[-2] for weight in self.weights]
        lead = () if self.lone else (self.replicas,)

        def buffer(width: int) -> Tensor:
            return state.theta.new_zeros(*lead, self.examples, width)

        self.z = [buffer(width) for width in widths]
        self.h = [buffer(width) for width in widths[:-1]]
        self.back = [buffer(width) for width in widths]
        if self.embedded:
            name = state.place("embedding")
            self.tokens, self.width = name.shape
            self.embedding = self._shaped(state.theta, "embedding")
            self.embedding_gradient = self._shaped(self.gradient, "embedding")
        self._orders_seen = -1

    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """Take so many steps. price: λ · price of every entry, (P,) or one row per replica."""
        with torch.no_grad():
            self._follow_orders()
            self.frozen = None if self.state.mask is None else ~self.state.mask
            done = 0
            while done < steps:
                some = min(STEPS_AT_ONCE, steps - done)
                batches = self.data.batches(self.state.step, some)
                chosen = None if batches is None else torch.from_numpy(batches).to(self.gradient.device)
                for number in range(some):
                    if chosen is not None:
                        self._choose(chosen[:, number])
                    self._step(price)
                done += some

    def losses(self, *, everything: bool = False) -> list[dict[str, float]]:
        """Prediction loss and accuracy on both parts, for each replica."""
        return self.data.evaluate_replicas(self.state, everything=everything)

    # --- the data, in the order of slots ---

    def _follow_orders(self) -> None:
        """Gather inputs and targets again after an exchange has moved input or output neurons."""
        if self._orders_seen == self.state.orders_version:
            return
        wiring, orders = self.state.network.wiring, self.state.orders
        entering, leaving = orders[wiring.input_layer.name], orders[wiring.output_layer.name]
        # Embeddings lie in slot order already; of numbers only those that have moved need gathering.
        unmoved = torch.arange(entering.shape[1], device=entering.device).expand_as(entering)
        self._entering = None if self.embedded or torch.equal(entering, unmoved) else entering
        self._leaving, self._slot_of = leaving, leaving.argsort(dim=1)
        if self.data.batch_size is None:
            self._take(self.data.train_inputs, self.data.train_targets)
        self._orders_seen = self.state.orders_version

    def _choose(self, chosen: Int64[Tensor, "R batch"]) -> None:
        """Bring in the examples of one step."""
        data = self.data
        if self.lone:
            inputs, targets = data.train_inputs[0][chosen[0]][None], data.train_targets[0][chosen[0]][None]
        else:
            row = torch.arange(self.replicas, device=chosen.device)[:, None]
            inputs, targets = data.train_inputs[row, chosen], data.train_targets[row, chosen]
        self._take(inputs, targets)

    def _take(self, inputs: Tensor, targets: Tensor) -> None:
        if self._entering is not None:
            inputs = inputs.gather(2, self._entering[:, None, :].expand(inputs.shape))
        if self.data.loss == "mse":
            targets = targets.gather(2, self._leaving[:, None, :].expand(targets.shape))
        else:
            slots = self._slot_of.gather(1, targets)
            targets = functional.one_hot(slots, self._leaving.shape[1]).to(self.gradient.dtype)
        # The gradient of the mean loss is (answer − target) · scale, for both losses; balanced outputs have one each.
        values = targets[0].numel() if self.data.loss == "mse" else targets.shape[1]
        self.scale = (2.0 if self.data.loss == "mse" else 1.0) / values
        if self.data.output_weights is None:
            pull = targets * -self.scale
        else:
            scales = self.scale * self.data.output_weights.gather(1, self._leaving)[:, None, :]
            pull = targets * -scales
            self.scales = scales[0] if self.lone else scales
        self.pull = pull[0] if self.lone else pull
        if self.embedded:
            self._list_tokens(inputs)
        else:
            self.x = inputs[0] if self.lone else inputs

    def _list_tokens(self, inputs: Int64[Tensor, "R N positions"]) -> None:
        """One row for each example, with a 1 at each of its tokens: times the table of tokens, the first layer."""
        offset = torch.arange(self.copies, device=inputs.device) * self.tokens
        columns = inputs + offset
        size = self.copies * self.tokens
        if self.data.batch_size is None and inputs.device.type == "cpu":
            self.hot = [self._sparse(c, size) for c in columns]
            self.cold = [self._sparse_turned(c, size) for c in columns]
            return
        dense = self.gradient.new_zeros(*inputs.shape[:2], size).scatter_(2, columns, 1.0)
        self.hot = [dense[0] if self.lone else dense]
        self.cold = [self.hot[0].mT]

    def _sparse(self, columns: Int64[Tensor, "N positions"], size: int) -> Tensor:
        starts = torch.arange(0, columns.numel() + 1, columns.shape[1])
        return self._csr(starts, columns.sort(dim=1).values.reshape(-1), (columns.shape[0], size))

    def _sparse_turned(self, columns: Int64[Tensor, "N positions"], size: int) -> Tensor:
        flat = columns.reshape(-1)
        order = torch.argsort(flat, stable=True)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(flat, minlength=size).cumsum(0)])
        return self._csr(starts, order // columns.shape[1], (size, columns.shape[0]))

    def _csr(self, starts: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "in beta state": what we use of it is tested here
            ones = torch.ones(columns.numel(), dtype=self.gradient.dtype)
            return torch.sparse_csr_tensor(starts, columns, ones, size=size)

    # --- one step ---

    def _step(self, price: Tensor) -> None:
        last = self.layers - 1
        for layer in range(self.layers):
            z = self.z[layer]
            if layer == 0 and self.embedded:
                self._enter_tokens(z)
            else:
                before = self.h[layer - 1] if layer else self.x
                self._linear(before, layer, z)
            if layer < last:
                self.forward(z, self.h[layer])
        back = self.back[last]
        answer = self.z[last] if self.data.loss == "mse" else torch.softmax(self.z[last], -1, out=back)
        if self.data.output_weights is None:
            torch.add(self.pull, answer, alpha=self.scale, out=back)
        else:
            torch.addcmul(self.pull, answer, self.scales, out=back)
        multiply = torch.mm if self.lone else torch.bmm
        for layer in range(last, -1, -1):
            back = self.back[layer]
            torch.sum(back, -2, out=self.bias_gradients[layer])
            if layer == 0 and self.embedded:
                self._leave_tokens(back)
                break
            before = self.h[layer - 1] if layer else self.x
            multiply(back.mT, before, out=self.weight_gradients[layer])
            if layer:
                multiply(back, self.weights[layer], out=self.back[layer - 1])
                self.backward(self.back[layer - 1], self.z[layer - 1], self.h[layer - 1])
        if self.frozen is not None:
            self.gradient.masked_fill_(self.frozen, 0.0)
        self._update(price)

    def _update(self, price: Tensor) -> None:
        state, rule = self.state, self.optimiser
        if rule.kind == "proximal":
            moments = state.first_moment, state.second_moment
            optimiser_step(rule, state.theta, self.gradient, *moments, step=state.step, price=price)
            state.step += 1
            return
        # One operation where the written-out rule takes ten; that the two agree is tested.
        self.gradient.addcmul_(torch.sign(state.theta, out=self.sign), price)
        state.step += 1
        torch._fused_adamw_(
            [state.theta],
            [self.gradient],
            [state.first_moment],
            [state.second_moment],
            [],
            [self.number.fill_(state.step)],
            lr=rule.learning_rate,
            beta1=rule.beta1,
            beta2=rule.beta2,
            weight_decay=rule.weight_decay,
            eps=rule.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def _linear(self, x: Tensor, layer: int, out: Tensor) -> None:
        if self.lone:
            torch.addmm(self.biases[layer], x, self.turned[layer], out=out)
        else:
            torch.baddbmm(self.biases[layer][:, None, :], x, self.turned[layer], out=out)

    def _enter_tokens(self, out: Tensor) -> None:
        """The first layer: embedding × weights once for each token, then one row for each token of an example."""
        parts = self.weights[0].unflatten(-1, (self.copies, self.width)).unbind(-2)
        table = torch.cat([self.embedding @ part.mT for part in parts], dim=-2)
        bias = self.biases[0]
        if self.hot[0].layout is torch.sparse_csr:
            for replica, hot in enumerate(self.hot):
                here, rows, added = (out, table, bias) if self.lone else (out[replica], table[replica], bias[replica])
                torch.add(hot @ rows, added, out=here)
        else:
            torch.add(self.hot[0] @ table, bias if self.lone else bias[:, None, :], out=out)

    def _leave_tokens(self, back: Tensor) -> None:
        """From the gradient of the first layer's sums to those of embedding and weights."""
        if self.cold[0].layout is torch.sparse_csr:
            rows = [cold @ (back if self.lone else back[replica]) for replica, cold in enumerate(self.cold)]
            table = rows[0] if self.lone else torch.stack(rows)
        else:
            table = self.cold[0] @ back
        by_position = table.unflatten(-2, (self.copies, self.tokens)).unbind(-3)
        parts = self.weights[0].unflatten(-1, (self.copies, self.width)).unbind(-2)
        for position, (rows, part) in enumerate(zip(by_position, parts, strict=True)):
            columns = slice(position * self.width, (position + 1) * self.width)
            self.weight_gradients[0][..., columns] = rows.mT @ self.embedding
            if position:
                self.embedding_gradient += rows @ part
            else:
                self.embedding_gradient.copy_(rows @ part)

    # --- views of the flat vectors ---

    def _shaped(self, flat: Tensor, name: str) -> Tensor:
        place = self.state.place(name)
        view = flat[:, place.slice].unflatten(1, place.shape)
        return view[0] if self.lone else view

    def _named(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return (
            [self._shaped(flat, f"weights.{layer}") for layer in range(self.layers)],
            [self._shaped(flat, f"biases.{layer}") for layer in range(self.layers)],
        )
