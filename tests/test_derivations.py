"""docs/derivations.md against the code: the lines that it quotes, and its formulas.

A formula of the page that is marked (T1), (T2), ... has a test here with this formula, as the page writes it, in its
docstring. The test computes it by loops over indices and compares it with complex steps and with the function.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import gradcheck
import kbn
import layers

PAGE = (Path(kbn.__file__).parent / "docs" / "derivations.md").read_text(encoding="utf-8")
QUOTES = [line for line in PAGE.splitlines() if line.startswith("→")]
PARTS = re.compile(r"→ (kbn|layers)\.(\w+): `([^`]+)`")
BACKWARD = [f"layers.{name}" for name in vars(layers) if "_backward" in name or name.endswith("_loss")]
BACKWARD += ["kbn.backward", "kbn.bn_backward", "kbn.bn_gradients", "kbn.batch_norm_backpass"]


def source_of(module, name):
    return textwrap.dedent(inspect.getsource(getattr({"kbn": kbn, "layers": layers}[module], name)))


def lines_of(module, name):
    """The lines of a function, without indentation and comments at their ends."""
    return [line.split("  #")[0].strip() for line in source_of(module, name).splitlines()]


def computing_lines(module, name):
    """The first lines of a function's statements that compute something with an operator, apart from errors."""

    def operates(node):
        if isinstance(node, ast.JoinedStr):  # f"X{l - 1}" is a name
            return False
        return isinstance(node, (ast.BinOp, ast.AugAssign)) or any(map(operates, ast.iter_child_nodes(node)))

    nodes = ast.walk(ast.parse(source_of(module, name)))
    statements = [node for node in nodes if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return)) and operates(node)]
    return [lines_of(module, name)[node.lineno - 1] for node in statements]


@pytest.mark.parametrize("quote", sorted(set(QUOTES)))
def test_quoted_line_is_one_of_the_function(quote):
    module, name, line = PARTS.fullmatch(quote).groups()
    assert line in lines_of(module, name)


@pytest.mark.parametrize("function", BACKWARD)
def test_every_line_of_a_backward_function_that_computes_is_quoted(function):
    quotes = map(PARTS.fullmatch, QUOTES)
    quoted = {quote[3] for quote in quotes if f"{quote[1]}.{quote[2]}" == function}
    assert quoted and not set(computing_lines(*function.split("."))) - quoted


def test_every_marked_formula_is_tested():
    marked = [formula for formula in PAGE.split("\n$$\n")[1::2] if r"\text{(T" in formula]
    docstrings = "\n".join(inspect.getdoc(test) or "" for name, test in globals().items() if name.startswith("test_"))
    assert len(marked) == 11 and [formula for formula in marked if formula not in docstrings] == []


# ---------------------------------------------------------------------------------------------------------- formulas


def assert_close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape and np.abs(expected).max() > 1e-3
    assert np.abs(actual - expected).max() <= 1e-12 * np.abs(expected).max()


def slope(f, A):
    """The gradient of f at the array A, by complex steps."""
    return gradcheck.complex_step_gradient(lambda arrays: f(arrays["A"]), {"A": A})["A"]


def scores():
    """Scores S (4, 6) and labels y (6,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 6)), rng.integers(0, 4, 6)


def bn_case(n=6, eps=0.3):
    """S, gamma, beta and G of BN, all random, and the cache of batch_norm_forward."""
    rng = np.random.default_rng(n)
    S, gamma, beta, G = (rng.standard_normal(shape) + 0.5 for shape in [(3, n), (3, 1), (3, 1), (3, n)])
    return S, gamma, beta, G, layers.batch_norm_forward(S, gamma, beta, eps=eps)[1]


def test_softmax_formula():
    r"""
    \frac{\partial J}{\partial S_{ki}} = \frac1n (P_{ki} - Y_{ki}) \qquad \text{(T1)}
    """
    S, y = scores()
    K, n = S.shape
    G = [[(np.exp(S[k, i]) / sum(np.exp(S[:, i])) - (y[i] == k)) / n for i in range(n)] for k in range(K)]
    assert_close(G, slope(lambda S: sum(-np.log(np.exp(S[y[i], i]) / np.exp(S[:, i]).sum()) for i in range(n)) / n, S))
    assert_close(layers.softmax_loss(S, kbn.one_hot(y, K, float))[1], G)


def test_svm_formula():
    r"""
    \frac{\partial J}{\partial S_{ki}} = \frac1n \mathrm{Ind}(S_{ki} - S_{y_i i} + 1 \gt 0) \quad \text{for } k \ne y_i, \qquad
    \frac{\partial J}{\partial S_{y_i i}} = -\sum_{k \ne y_i} \frac{\partial J}{\partial S_{ki}} \qquad \text{(T2)}
    """
    S, y = scores()
    (K, n), Y = S.shape, kbn.one_hot(y, 4, float)
    G = np.array([[(k != y[i] and S[k, i] - S[y[i], i] + 1 > 0) / n for i in range(n)] for k in range(K)])
    for i in range(n):
        G[y[i], i] = -sum(G[k, i] for k in range(K) if k != y[i])
    assert 0 < np.count_nonzero(G) < G.size
    assert_close(G, slope(lambda S: layers.svm_loss(S, Y)[0], S))
    assert_close(layers.svm_loss(S, Y)[1], G)


@pytest.mark.parametrize("eps", [kbn.EPS, 0.3])
@pytest.mark.parametrize("n", [3, 6])
def test_batch_norm_formulas(n, eps):
    r"""
    \frac{\partial J}{\partial s_i} = \frac{h_i}{\sigma} - \frac1n \sum_k \frac{h_k}{\sigma} - \frac1n D_i \sum_k \frac{h_k D_k}{\sigma^3} \qquad \text{(T3)}

    \frac{\partial J}{\partial S} = G_1 - \frac1n (G_1 \mathbf 1_n) \mathbf 1_n^T - \frac1n D \odot (\mathbf c \mathbf 1_n^T) \qquad \text{(T4)}

    \frac{\partial J}{\partial s_i} = \frac{\gamma}{\sqrt{v + \epsilon}} \left( g_i - \frac1n \sum_k g_k - \frac{\hat s_i}{n} \sum_k g_k \hat s_k \right) \qquad \text{(T5)}
    """
    S, gamma, beta, G, cache = bn_case(n, eps)
    truth = slope(lambda S: (G * layers.batch_norm_forward(S, gamma, beta, eps=eps)[0]).sum(), S)
    T3, T5 = np.empty_like(S), np.empty_like(S)
    for j, i in np.ndindex(S.shape):
        g, h, D = G[j], gamma[j, 0] * G[j], S[j] - sum(S[j]) / n
        sigma = np.sqrt(sum(D**2) / n + eps)
        s_hat = D / sigma
        T3[j, i] = h[i] / sigma - sum(h / sigma) / n - D[i] * sum(h * D / sigma**3) / n
        T5[j, i] = gamma[j, 0] / sigma * (g[i] - sum(g) / n - s_hat[i] / n * sum(g * s_hat))
    one, H, D = np.ones((n, 1)), gamma * G, S - cache["mu"] @ np.ones((1, n))
    G1, G2 = (H * ((cache["v"] + eps) ** power @ one.T) for power in (-0.5, -1.5))
    c = (G2 * D) @ one
    T4 = G1 - (G1 @ one) @ one.T / n - D * (c @ one.T) / n
    code = kbn.batch_norm_backpass(H, S, cache["mu"], cache["v"], eps)
    for G_S in (T3, T4, T5, code, layers.batch_norm_backward(G, cache)[0], layers.batch_norm_backward_staged(G, cache)[0]):
        assert_close(G_S, truth)
    printed = G1 @ np.ones(n) / n  # (37) as the assignment prints it, a 1-D vector
    if n == len(S):
        assert np.abs(G1 - printed - D * c / n - truth).max() > 0.1 * np.abs(truth).max()
    else:
        with pytest.raises(ValueError, match="broadcast"):
            G1 - printed


def test_jacobian_of_the_normalisation():
    r"""
    \frac{\partial \hat s_k}{\partial s_i} = \frac{1}{\sqrt{v + \epsilon}} \left( \mathrm{Ind}(i = k) - \frac1n - \frac{\hat s_i \hat s_k}{n} \right) \qquad \text{(T6)}
    """
    S, _, _, _, cache = bn_case()
    s, s_hat, n, one = S[:1], cache["S_hat"][0], S.shape[1], np.ones((1, 1))
    T6 = [[((i == k) - 1 / n - s_hat[i] * s_hat[k] / n) / np.sqrt(cache["v"][0, 0] + 0.3) for i in range(n)] for k in range(n)]
    assert_close(T6, [slope(lambda s: layers.batch_norm_forward(s, one, 0 * one, eps=0.3)[0][0, k], s)[0] for k in range(n)])


def test_two_examples_pass_nothing_back():
    r"""
    \frac{\partial J}{\partial s_1} = -\frac{\partial J}{\partial s_2} = \gamma \frac{g_1 - g_2}{2} \cdot \frac{\epsilon}{(\delta^2 + \epsilon)^{3/2}} \qquad \text{(T7)}
    """
    S, gamma, beta, G, cache = bn_case(n=2)
    T7 = [gamma[j, 0] * (G[j, 0] - G[j, 1]) / 2 * 0.3 / (((S[j, 0] - S[j, 1]) / 2) ** 2 + 0.3) ** 1.5 for j in range(3)]
    assert_close(np.stack([T7, np.negative(T7)], axis=1), layers.batch_norm_backward(G, cache)[0])
    for backward in (layers.batch_norm_backward, layers.batch_norm_backward_staged):
        assert np.abs(backward(G, bn_case(2, kbn.EPS)[4])[0]).max() < 1e-13
        assert np.abs(backward(bn_case(5)[3], bn_case(5, kbn.EPS)[4])[0]).max() > 0.1


@pytest.mark.parametrize("eps", [1e-3, 0.3, 1e3])
def test_epsilon_leaves_this_part_along_s_hat_and_of_the_mean(eps):
    r"""
    \sum_i \hat s_i \frac{\partial J}{\partial s_i} = \frac{\gamma}{\sigma} \cdot \frac{\epsilon}{v + \epsilon} \sum_k g_k \hat s_k \qquad \text{(T8)}
    """
    S, gamma, _, G, cache = bn_case(eps=eps)
    G_S, v, S_hat = layers.batch_norm_backward(G, cache)[0], cache["v"], cache["S_hat"]
    T8 = [gamma[j, 0] / np.sqrt(v[j, 0] + eps) * eps / (v[j, 0] + eps) * sum(G[j] * S_hat[j]) for j in range(3)]
    np.testing.assert_allclose((S_hat * G_S).sum(axis=1), T8, rtol=1e-9)
    assert np.abs(T8).min() > 1e-5 and np.abs(G_S.sum(axis=1)).max() < 1e-14  # the bias
    if eps == 1e3:
        np.testing.assert_allclose(G_S, gamma * (G - G.mean(axis=1, keepdims=True)) / eps**0.5, atol=1e-4)


def test_convolution_formulas():
    r"""
    h_{out} = \frac{h + 2 p - k_h}{t} + 1, \qquad w_{out} = \frac{w + 2 p - k_w}{t} + 1 \qquad \text{(T9)}

    M_{(c,a,b),(y,x,e)} = Z_{c, t y + a, t x + b, e} \qquad \text{(T10)}

    \frac{\partial J}{\partial Z_{c,y,x,e}} = \sum_{a,b,y',x'} \mathrm{Ind}(t y' + a = y) \mathrm{Ind}(t x' + b = x) G^M_{(c,a,b),(y',x',e)} \qquad \text{(T11)}
    """
    rng = np.random.default_rng(0)
    n, channels, h, w, f, k_h, k_w, t, p = 2, 2, 5, 6, 3, 3, 4, 2, 1
    images, W, bias = (rng.standard_normal(shape) for shape in [(n, channels, h, w), (f, channels, k_h, k_w), (f, 1)])
    out, cache = layers.conv_forward(images, W, bias, t, p)
    h_out, w_out = (h + 2 * p - k_h) // t + 1, (w + 2 * p - k_w) // t + 1
    assert out.shape == (n, f, h_out, w_out)
    G, Z = rng.standard_normal(out.shape), np.pad(images, [(0, 0), (0, 0), (p, p), (p, p)]).transpose(1, 2, 3, 0)
    M = [
        [Z[c, t * y + a, t * x + b, e] for y, x, e in np.ndindex(h_out, w_out, n)] for c, a, b in np.ndindex(channels, k_h, k_w)
    ]
    assert np.array_equal(cache[0], Z)
    assert_close(W.reshape(f, -1) @ M + bias, layers.channel_rows(out))
    G_M = (W.reshape(f, -1).T @ layers.channel_rows(G)).reshape(channels, k_h, k_w, h_out, w_out, n)
    T11 = np.zeros_like(Z)
    for c, y, x, e in np.ndindex(Z.shape):
        places = np.ndindex(k_h, k_w, h_out, w_out)
        T11[c, y, x, e] = sum(G_M[c, *at, e] for at in places if t * at[2] + at[0] == y and t * at[3] + at[1] == x)
    T11 = T11[:, p:-p, p:-p].transpose(3, 0, 1, 2)
    assert_close(T11, layers.conv_backward(G, cache)[0])
    assert_close(T11, slope(lambda images: (G * layers.conv_forward(images, W, bias, t, p)[0]).sum(), images))


def test_backward_pass_as_the_assignment_writes_it_is_that_of_kbn():
    """Section 14: (21)-(37) as the assignment writes them, with n G for G and the 1_n^T that (37) lacks."""
    rng, lam, eps, n, k = np.random.default_rng(0), 0.1, 0.01, 7, 3
    params = kbn.init_params([5, 4, 3, 6], rng, bn="before", dtype=np.float64)
    params = {key: param + 0.1 * rng.standard_normal(param.shape) for key, param in params.items()}
    X, Y = rng.standard_normal((5, n)), kbn.one_hot(rng.integers(0, 6, n), 6, np.float64)
    P, cache = kbn.forward(X, params, eps=eps)
    one, grads = np.ones((n, 1)), {}
    G = -(Y - P)  # (21)
    for l in range(k, 0, -1):
        if l < k:
            gamma, S, mu, v = params[f"gamma{l}"], cache[f"S{l}"], cache[f"mu{l}"], cache[f"v{l}"]
            grads[f"gamma{l}"] = (G * cache[f"Shat{l}"]) @ one / n  # (25)
            grads[f"beta{l}"] = G @ one / n
            G = G * (gamma @ one.T)  # (26)
            G1 = G * ((v + eps) ** -0.5 @ one.T)  # (31), (33)
            G2 = G * ((v + eps) ** -1.5 @ one.T)  # (32), (34)
            D = S - mu @ one.T  # (35)
            c = (G2 * D) @ one  # (36)
            G = G1 - (G1 @ one) @ one.T / n - D * (c @ one.T) / n  # (37)
        grads[f"W{l}"] = G @ cache[f"X{l - 1}"].T / n + 2 * lam * params[f"W{l}"]  # (22), (28)
        grads[f"b{l}"] = G @ one / n
        if l > 1:
            G = params[f"W{l}"].T @ G  # (23), (29)
            G = G * (cache[f"X{l - 1}"] > 0)  # (24), (30)
    found = kbn.backward(Y, params, cache, lam)
    assert found.keys() == grads.keys() == params.keys()
    assert max(np.abs(grad[key]).max() for grad in (found, grads) for key in ("b1", "b2")) < 1e-15
    for key in grads.keys() - {"b1", "b2"}:
        assert_close(found[key], grads[key])
