"""The coordinatewise LSTM network in PyTorch, as a good hand would write it: two products and fused bias per step.

The same weights, features and formula as `nestax.learned`. Both layouts are here, since neither is the faster one
everywhere: "rows" (n, features) is PyTorch's own, "columns" (features, n) makes every gate contiguous.
"""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  (extra `bench`)

LAYOUTS = ("rows", "columns")


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


class Network:
    """LSTM layers and a read-out. `cells`: (weight (4H, in + H), bias (4H,)) each, gates ordered i, j, f, o."""

    def __init__(self, cells, readout_weight, readout_bias, layout: str):
        self.columns = layout == "columns"
        self.parameters = []
        self.cells = []
        for weight, bias in cells:
            bias = np.array(bias)
            size = len(bias) // 4
            bias[2 * size : 3 * size] += 1.0  # forget bias, added once
            weight, bias = torch.from_numpy(np.array(weight)), torch.from_numpy(bias)
            if not self.columns:
                weight = weight.T.contiguous()
            bias = bias[:, None] if self.columns else bias
            self.cells.append((self._parameter(weight), self._parameter(bias)))
        self.readout_weight = self._parameter(torch.from_numpy(np.array(readout_weight)))
        self.readout_bias = self._parameter(torch.from_numpy(np.array(readout_bias)))

    def _parameter(self, x: torch.Tensor) -> torch.Tensor:
        self.parameters.append(x.clone().requires_grad_())
        return self.parameters[-1]

    def init_state(self, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sizes = [b.numel() // 4 for _, b in self.cells]
        shapes = [(size, n) if self.columns else (n, size) for size in sizes]
        return [(torch.zeros(s), torch.zeros(s)) for s in shapes]

    def step(self, x, state):
        new, axis = [], 0 if self.columns else 1
        for (weight, bias), (h, c) in zip(self.cells, state):
            inputs = torch.cat([x, h], axis)
            z = torch.addmm(bias, weight, inputs) if self.columns else torch.addmm(bias, inputs, weight)
            i, j, f, o = z.chunk(4, axis)
            c = torch.addcmul(torch.sigmoid(f) * c, torch.sigmoid(i), torch.tanh(j))
            x = torch.sigmoid(o) * torch.tanh(c)
            new.append((x, c))
        out = self.readout_weight @ x if self.columns else x @ self.readout_weight
        return out + self.readout_bias, new

    def unroll(self, features):
        """`features`: a list of (features, n) or (n, features). Returns the list of outputs."""
        state = self.init_state(features[0].shape[1 if self.columns else 0])
        outputs = []
        for x in features:
            out, state = self.step(x, state)
            outputs.append(out)
        return outputs

    def prepare(self, features: np.ndarray, cotangents: np.ndarray):
        """From (T, features, n) and (T, n) to lists of tensors in this network's layout."""
        xs = [torch.from_numpy(np.ascontiguousarray(x if self.columns else x.T)) for x in features]
        return xs, [torch.from_numpy(np.ascontiguousarray(w)) for w in cotangents]

    def forward(self, features):
        with torch.no_grad():
            return self.unroll(features)

    def meta_gradient(self, features, cotangents):
        """Autograd through all steps; the graph of the forward pass is kept in memory, nothing is computed twice."""
        outputs = self.unroll(features)
        return torch.autograd.grad(outputs, self.parameters, cotangents)
