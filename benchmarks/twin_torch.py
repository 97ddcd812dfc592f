"""One training epoch of the released Twin-L2O on Seesaw in PyTorch: batched, and with a loop over instances.

The same weights, starts, rewards and updates as `nestax.meta.train` with the settings "release". In the loop over
instances every problem is an object of its own whose payoff and gradient are computed by autograd one instance at a
time, as the released code does; the networks are called once for all instances in both versions.
"""

import math

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  (extra `bench`)

RESCALE, WARM_START, WARM_STOP = 1e-4, 1e-4, 0.1


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


class Network(torch.nn.Module):
    """Two LSTM cells and a linear read-out, from nestax's arrays (gates i, j, f, o; 1 added to the forget gate)."""

    def __init__(self, cells, readout_weight, readout_bias):
        super().__init__()
        modules = []
        for weight, bias in cells:
            size = len(bias) // 4
            order = np.concatenate([np.arange(k * size, (k + 1) * size) for k in (0, 2, 1, 3)])
            bias = np.array(bias)
            bias[2 * size : 3 * size] += 1.0
            inputs = weight.shape[1] - size
            cell = torch.nn.LSTMCell(inputs, size)
            cell.weight_ih.data = torch.tensor(weight[order, :inputs])
            cell.weight_hh.data = torch.tensor(weight[order, inputs:])
            cell.bias_ih.data = torch.tensor(bias[order])
            cell.bias_hh.data.zero_()
            cell.bias_hh.requires_grad_(False)
            modules.append(cell)
        self.cells = torch.nn.ModuleList(modules)
        self.readout = torch.nn.Linear(len(readout_weight[0]), 1)
        self.readout.weight.data = torch.tensor(readout_weight)
        self.readout.bias.data = torch.tensor(readout_bias)

    def forward(self, x, state):
        new = []
        for cell, (h, c) in zip(self.cells, state):
            h, c = cell(x, (RESCALE * h, RESCALE * c))
            new.append((h, c))
            x = h
        return self.readout(x)[:, 0], new


class Batched:
    """Payoff and gradients of all instances at once."""

    def __init__(self, a, b):
        self.a, self.b = torch.tensor(a), torch.tensor(b)

    def payoff(self, x, y):
        return -self.b * y * torch.sin(math.pi * self.a * x)

    def gradients(self, x, y):
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        return torch.autograd.grad(self.payoff(x, y).sum(), (x, y))


class Looped:
    """The same, one instance after the other."""

    def __init__(self, a, b):
        self.problems = [Batched(a[i], b[i]) for i in range(len(a))]

    def payoff(self, x, y):
        return torch.stack([p.payoff(x[i], y[i]) for i, p in enumerate(self.problems)])

    def gradients(self, x, y):
        pairs = [p.gradients(x[i], y[i]) for i, p in enumerate(self.problems)]
        return torch.stack([g for g, _ in pairs]), torch.stack([g for _, g in pairs])


class Trainer:
    """An epoch of 50 pairs of moves, an update of the weights after every 5."""

    def __init__(self, networks, problem):
        self.networks, self.problem = networks, problem
        weights = [p for n in networks for p in n.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(weights, lr=1e-4)

    def epoch(self, x, y, pairs: int = 50, unroll: int = 5) -> float:
        """Mean meta-loss over the updates. `x`, `y`: initial points of all instances."""
        players = [torch.tensor(x), torch.tensor(y)]
        size = len(x)
        hidden = [[(torch.zeros(size, c.hidden_size),) * 2 for c in n.cells] for n in self.networks]
        warm, values = int(0.2 * 2 * pairs), []
        k = 0
        for _ in range(pairs // unroll):
            loss = torch.zeros(())
            for t in range(unroll):
                start = self.problem.payoff(*(p.detach() if i == 0 else p for i, p in enumerate(players)))
                middle = None
                for i in (0, 1):
                    gradients = self.problem.gradients(*players)
                    features = torch.stack([gradients[i], gradients[1 - i]], 1)
                    out, hidden[i] = self.networks[i](features, hidden[i])
                    k += 1
                    if k < warm:
                        out = torch.sign(out) * (WARM_START + (WARM_STOP - WARM_START) * (k - 1) / warm)
                    players[i] = players[i].detach() + out
                    if i == 0:
                        middle = self.problem.payoff(players[0], players[1].detach())
                loss = loss + (middle - start).sum()
                if t < unroll - 1:
                    loss = loss + (middle - self.problem.payoff(players[0].detach(), players[1])).sum()
            loss = loss / size
            self.optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
            self.optimizer.step()
            values.append(loss.item())
            players = [p.detach() for p in players]
            hidden = [[(h.detach(), c.detach()) for h, c in state] for state in hidden]
        return float(np.mean(values))
