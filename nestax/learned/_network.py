"""Temporary simple network (to be replaced)."""
import math
import equinox as eqx, jax, jax.numpy as jnp

class LSTMCell(eqx.Module):
    weight: jax.Array
    bias: jax.Array
    def __call__(self, x, hc):
        h, c = hc
        z = self.weight @ jnp.concatenate([x, h]) + self.bias[:, None]
        i, j, f, o = jnp.split(z, 4)
        c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(j)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h, (h, c)

class CoordinatewiseLSTM(eqx.Module):
    projection: tuple | None
    cells: tuple
    readout_weight: jax.Array
    readout_bias: jax.Array
    def __init__(self, num_features=2, hidden_sizes=(20, 20), projection_size=None, *, key):
        keys = jax.random.split(key, 2 * len(hidden_sizes) + 2)
        tn = lambda k, s, f: jax.random.truncated_normal(k, -2, 2, s) / math.sqrt(f)
        n = num_features
        self.projection = None
        if projection_size is not None:
            self.projection = (tn(keys[-2], (projection_size, n), n), jnp.zeros(projection_size))
            n = projection_size
        cells = []
        for i, hs in enumerate(hidden_sizes):
            cells.append(LSTMCell(tn(keys[2*i], (4*hs, n+hs), n+hs), tn(keys[2*i+1], (4*hs,), n+hs)))
            n = hs
        self.cells = tuple(cells)
        self.readout_weight = tn(keys[-1], (n,), n)
        self.readout_bias = jnp.zeros(())
    @property
    def hidden_sizes(self): return tuple(c.weight.shape[0]//4 for c in self.cells)
    @property
    def projection_size(self): return None if self.projection is None else self.projection[0].shape[0]
    def init_state(self, n, dtype):
        return tuple((jnp.zeros((c.weight.shape[0]//4, n), dtype),)*2 for c in self.cells)
    def __call__(self, x, state):
        if self.projection is not None:
            x = jax.nn.elu(self.projection[0] @ x + self.projection[1][:, None])
        new = []
        for c, s in zip(self.cells, state):
            x, s = c(x, s)
            new.append(s)
        return self.readout_weight @ x + self.readout_bias, tuple(new)

def weighted_outputs_gradient(network, features, state, cotangents, postprocess=lambda o: o):
    def f(net):
        def body(s, x):
            o, s = net(x, s)
            return s, postprocess(o)
        _, outs = jax.lax.scan(body, state, features)
        return jnp.sum(outs * cotangents)
    return jax.grad(f)(network)
