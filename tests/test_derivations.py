"""docs/derivations.md against the code: the lines that it quotes, what it treats, its formulas, its mathematics' syntax.

A formula of the page that is marked (T1), (T2), ... has a test here with that formula, as it stands there, in its
docstring; the test computes it by loops over indices and compares it with complex steps and with the function.
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
TIE = re.compile(r"→ (kbn|layers)\.(\w+): `([^`]+)`")
MODULES = {"kbn": kbn, "layers": layers}
TIES = [TIE.fullmatch(line).groups() if TIE.fullmatch(line) else (line,) for line in PAGE.splitlines() if line.startswith("→")]
BACKWARD = [f"layers.{name}" for name in vars(layers) if "_backward" in name or name.endswith("_loss")]
BACKWARD += ["kbn.backward", "kbn.batch_norm_backpass"]


# ---------------------------------------------------------------------------------------------------- what is quoted


def lines_of(module, name):
    """The lines of a function, without indentation and comments at their ends."""
    source = inspect.getsource(getattr(MODULES[module], name))
    return [line.split("  #")[0].strip() for line in source.splitlines()]


def computing_lines(module, name):
    """The first lines of a function's statements that compute something with an operator; errors apart."""

    def operates(node):
        if isinstance(node, ast.JoinedStr):  # f"X{l - 1}" is a name
            return False
        return isinstance(node, (ast.BinOp, ast.AugAssign)) or any(map(operates, ast.iter_child_nodes(node)))

    source = textwrap.dedent(inspect.getsource(getattr(MODULES[module], name)))
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return))]
    return [lines_of(module, name)[node.lineno - 1] for node in statements if operates(node)]


@pytest.mark.parametrize("tie", sorted(set(TIES)), ids=": ".join)
def test_a_quoted_line_is_one_of_the_function(tie):
    assert len(tie) == 3, "not of the form → module.function: `line`"
    module, name, line = tie
    assert line in lines_of(module, name)


def test_there_are_backward_functions():
    assert {"layers.conv_backward", "layers.batch_norm_backward_staged", "layers.svm_loss"} <= set(BACKWARD)


@pytest.mark.parametrize("function", BACKWARD)
def test_every_line_that_computes_is_quoted(function):
    module, name = function.split(".")
    quoted = {tie[2] for tie in TIES if tie[:2] == (module, name)}
    assert quoted, f"{function} is not treated"
    assert not set(computing_lines(module, name)) - quoted


# ------------------------------------------------------------------------------------------------- how it is written


def formulas():
    """The displayed formulas, those between two lines of $$."""
    return PAGE.split("\n$$\n")[1::2]


def test_contents_name_the_headings():
    headings = re.findall(r"^###? (.+)$", PAGE, re.M)
    slugs = {heading: re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    contents = dict(re.findall(r"^ *(?:\d+\.|-) \[(.+)\]\(#(.+)\)$", PAGE, re.M))
    assert contents == {re.sub(r"^\d+\. ", "", heading): slug for heading, slug in slugs.items()}


def test_github_can_render_the_mathematics():
    """GitHub's Markdown sees a formula first: it may eat backslashes before punctuation and pair underscores or stars
    that do not follow a letter or digit, and it takes a line that begins with - + = for a list or a heading."""
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\n\$\$\n.*?\n\$\$\n", "\n", PAGE, flags=re.S)).split("$")
    prose, inline = text[::2], text[1::2]
    assert len(inline) > 100 and len(formulas()) > 40 and PAGE.count("$$") == 2 * len(formulas())
    assert PAGE.count("\n\n$$\n") == PAGE.count("\n$$\n\n") == len(formulas())
    for formula in inline + formulas():
        assert not re.search(r"\\[^A-Za-z ]|[^A-Za-z0-9]_|[*<>&~#|]|operatorname|newcommand|\\def\b", formula), formula
        assert not re.search(r"^\s*([-+=]|\d+\.|$)", formula, re.M) or formula in inline, formula
        assert formula == formula.strip() and formula.count("{") == formula.count("}"), formula
    for formula in inline:
        assert "\n" not in formula, formula
    assert len(prose) == len(inline) + 1
    for before, after in zip(prose, prose[1:]):
        assert re.search(r"[\s(]$", before) and not re.match("[A-Za-z0-9]", after), (before[-20:], after[:20])


def test_every_marked_formula_is_tested():
    marked = {re.search(r"T\d+", formula)[0]: formula for formula in formulas() if r"\text{(T" in formula}
    assert list(marked) == [f"T{number}" for number in range(1, len(marked) + 1)]
    tests = [function.__doc__ or "" for name, function in globals().items() if name.startswith("test_")]
    tested = "\n".join(map(textwrap.dedent, map(inspect.cleandoc, tests)))
    assert [name for name, formula in marked.items() if formula not in tested] == []
    assert set(re.findall(r"\\text\{\((T\d+)\)\}", tested)) == set(marked)
    assert set(re.findall(r"\(?(T\d+)\)", PAGE)) == set(marked)


# -------------------------------------------------------------------------------------------------- what is computed


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3  # of zeros this would say nothing


def slope(f, A):
    """The gradient of f at the array A, by complex steps."""
    return gradcheck.complex_step_gradient(lambda arrays: f(arrays["A"]), {"A": A})["A"]


def losses_input(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 6)), rng.integers(0, 4, 6)


def rows(n=6, eps=0.3):
    """S, gamma, beta and G of BN, all drawn, and the result of batch_norm_forward."""
    rng = np.random.default_rng(n)
    S, gamma, beta, G = (rng.standard_normal(shape) + 0.5 for shape in [(3, n), (3, 1), (3, 1), (3, n)])
    return S, gamma, beta, G, layers.batch_norm_forward(S, gamma, beta, eps=eps)[1]


def test_softmax():
    r"""
    \frac{\partial J}{\partial S_{ki}} = \frac1n (P_{ki} - Y_{ki}) \qquad \text{(T1)}
    """
    S, y = losses_input()
    K, n = S.shape
    G = np.empty((K, n))
    for k in range(K):
        for i in range(n):
            G[k, i] = (np.exp(S[k, i]) / sum(np.exp(S[r, i]) for r in range(K)) - (y[i] == k)) / n

    def J(S):
        return sum(-np.log(np.exp(S[y[i], i]) / np.exp(S[:, i]).sum()) for i in range(n)) / n

    assert_close(G, slope(J, S))
    assert_close(G, layers.softmax_loss(S, y)[1])


def test_svm():
    r"""
    \frac{\partial J}{\partial S_{ki}} = \frac1n \mathrm{Ind}(S_{ki} - S_{y_i i} + 1 \gt 0) \quad \text{for } k \ne y_i, \qquad
    \frac{\partial J}{\partial S_{y_i i}} = -\sum_{k \ne y_i} \frac{\partial J}{\partial S_{ki}} \qquad \text{(T2)}
    """
    S, y = losses_input()
    K, n = S.shape
    G, J = np.zeros((K, n)), 0
    for i in range(n):
        for k in range(K):
            if k != y[i] and S[k, i] - S[y[i], i] + 1 > 0:
                G[k, i] = 1 / n
                J += (S[k, i] - S[y[i], i] + 1) / n
        G[y[i], i] = -sum(G[k, i] for k in range(K) if k != y[i])
    assert 0 < np.count_nonzero(G) < G.size
    assert_close(J, layers.svm_loss(S, y)[0])
    assert_close(G, slope(lambda S: layers.svm_loss(S, y)[0], S))
    assert_close(G, layers.svm_loss(S, y)[1])


@pytest.mark.parametrize("eps", [kbn.EPS, 0.3])
@pytest.mark.parametrize("n", [3, 6])
def test_batch_norm_in_all_its_forms(n, eps):
    r"""
    \frac{\partial J}{\partial s_i} = \frac{h_i}{\sigma} - \frac1n \sum_k \frac{h_k}{\sigma} - \frac1n D_i \sum_k \frac{h_k D_k}{\sigma^3} \qquad \text{(T3)}

    \frac{\partial J}{\partial S} = G_1 - \frac1n (G_1 \mathbf 1_n) \mathbf 1_n^T - \frac1n D \odot (\mathbf c \mathbf 1_n^T) \qquad \text{(T4)}

    \frac{\partial J}{\partial s_i} = \frac{\gamma}{\sqrt{v + \epsilon}} \left( g_i - \frac1n \sum_k g_k - \frac{\hat s_i}{n} \sum_k g_k \hat s_k \right) \qquad \text{(T5)}
    """
    S, gamma, beta, G, cache = rows(n, eps)
    truth = slope(lambda S: (G * layers.batch_norm_forward(S, gamma, beta, eps=eps)[0]).sum(), S)
    T3, T5 = np.empty_like(S), np.empty_like(S)
    for j in range(len(S)):
        g, h = G[j], gamma[j, 0] * G[j]
        mu = sum(S[j]) / n
        D = S[j] - mu
        v = sum(D**2) / n
        sigma = np.sqrt(v + eps)
        s_hat = D / sigma
        for i in range(n):
            T3[j, i] = (
                h[i] / sigma
                - sum(h[k] / sigma for k in range(n)) / n
                - D[i] * sum(h[k] * D[k] / sigma**3 for k in range(n)) / n
            )
            T5[j, i] = (
                gamma[j, 0]
                / np.sqrt(v + eps)
                * (g[i] - sum(g[k] for k in range(n)) / n - s_hat[i] / n * sum(g[k] * s_hat[k] for k in range(n)))
            )
    one, H, D = np.ones((n, 1)), gamma * G, S - cache["mu"] @ np.ones((1, n))
    G1 = H * ((cache["v"] + eps) ** -0.5 @ one.T)
    G2 = H * ((cache["v"] + eps) ** -1.5 @ one.T)
    c = (G2 * D) @ one
    T4 = G1 - (G1 @ one) @ one.T / n - D * (c @ one.T) / n
    for G_S in (
        T3,
        T4,
        T5,
        kbn.batch_norm_backpass(H, S, cache["mu"], cache["v"], eps),
        layers.batch_norm_backward(G, cache)[0],
        layers.batch_norm_backward_staged(G, cache)[0],
    ):
        assert_close(G_S, truth)

    printed = G1 @ np.ones(n) / n  # (37) as document A has it, a 1-D vector
    if n == len(S):
        assert np.abs(G1 - printed - D * c / n - truth).max() > 0.1 * np.abs(truth).max()
    else:
        with pytest.raises(ValueError, match="broadcast"):
            G1 - printed


def test_jacobian_of_the_normalisation():
    r"""
    \frac{\partial \hat s_k}{\partial s_i} = \frac{1}{\sqrt{v + \epsilon}} \left( \mathrm{Ind}(i = k) - \frac1n - \frac{\hat s_i \hat s_k}{n} \right) \qquad \text{(T6)}
    """
    S, _, _, _, cache = rows()
    s, s_hat, n, one = S[:1], cache["S_hat"][0], S.shape[1], np.ones((1, 1))
    T6 = [[((i == k) - 1 / n - s_hat[i] * s_hat[k] / n) / np.sqrt(cache["v"][0, 0] + 0.3) for i in range(n)] for k in range(n)]
    assert_close(T6, [slope(lambda s: layers.batch_norm_forward(s, one, 0 * one, eps=0.3)[0][0, k], s)[0] for k in range(n)])


def test_two_examples():
    r"""
    \frac{\partial J}{\partial s_1} = -\frac{\partial J}{\partial s_2} = \gamma \frac{g_1 - g_2}{2} \cdot \frac{\epsilon}{(\delta^2 + \epsilon)^{3/2}} \qquad \text{(T7)}
    """
    S, gamma, beta, G, cache = rows(n=2)
    T7 = [gamma[j, 0] * (G[j, 0] - G[j, 1]) / 2 * 0.3 / (((S[j, 0] - S[j, 1]) / 2) ** 2 + 0.3) ** 1.5 for j in range(3)]
    assert_close(np.stack([T7, np.negative(T7)], axis=1), layers.batch_norm_backward(G, cache)[0])
    vacuous = layers.batch_norm_backward(G, layers.batch_norm_forward(S, gamma, beta)[1])[0]
    assert np.abs(vacuous).max() < 1e-13
    assert np.abs(layers.batch_norm_backward(rows(5)[3], rows(5, kbn.EPS)[4])[0]).max() > 0.1


@pytest.mark.parametrize("eps", [1e-3, 0.3, 1e3])
def test_what_epsilon_leaves_along_s_hat_and_of_the_mean(eps):
    r"""
    \sum_i \hat s_i \frac{\partial J}{\partial s_i} = \frac{\gamma}{\sigma} \cdot \frac{\epsilon}{v + \epsilon} \sum_k g_k \hat s_k \qquad \text{(T8)}
    """
    S, gamma, _, G, cache = rows(eps=eps)
    G_S, v, S_hat = layers.batch_norm_backward(G, cache)[0], cache["v"], cache["S_hat"]
    T8 = [gamma[j, 0] / np.sqrt(v[j, 0] + eps) * eps / (v[j, 0] + eps) * sum(G[j] * S_hat[j]) for j in range(3)]
    assert np.abs(T8).min() > 1e-5
    np.testing.assert_allclose((S_hat * G_S).sum(axis=1), T8, rtol=1e-9)
    assert np.abs(G_S.sum(axis=1)).max() < 1e-14  # the bias
    if eps == 1e3:
        np.testing.assert_allclose(G_S, gamma * (G - G.mean(axis=1, keepdims=True)) / eps**0.5, atol=1e-4)
        assert np.abs(G_S).max() > 0.01


def test_convolution():
    r"""
    h_{out} = \frac{h + 2 p - k_h}{t} + 1, \qquad w_{out} = \frac{w + 2 p - k_w}{t} + 1 \qquad \text{(T9)}

    M_{(c,a,b),(y,x,e)} = Z_{c, t y + a, t x + b, e} \qquad \text{(T10)}

    \frac{\partial J}{\partial Z_{c,y,x,e}} = \sum_{a,b,y',x'} \mathrm{Ind}(t y' + a = y) \mathrm{Ind}(t x' + b = x) G^M_{(c,a,b),(y',x',e)} \qquad \text{(T11)}
    """
    rng = np.random.default_rng(0)
    n, channels, h, w, f, k_h, k_w, t, p = 2, 2, 5, 6, 3, 3, 4, 2, 1
    images, W, b = (rng.standard_normal(shape) for shape in [(n, channels, h, w), (f, channels, k_h, k_w), (f, 1)])
    out, cache = layers.conv_forward(images, W, b, t, p)
    h_out, w_out = (h + 2 * p - k_h) / t + 1, (w + 2 * p - k_w) / t + 1
    assert out.shape == (n, f, h_out, w_out)
    h_out, w_out, G = int(h_out), int(w_out), rng.standard_normal(out.shape)
    Z = np.pad(images, [(0, 0), (0, 0), (p, p), (p, p)]).transpose(1, 2, 3, 0)
    M = np.array(
        [
            [Z[c, t * y + a, t * x + b, e] for y in range(h_out) for x in range(w_out) for e in range(n)]
            for c in range(channels)
            for a in range(k_h)
            for b in range(k_w)
        ]
    )
    np.testing.assert_array_equal(cache[0], Z)
    assert_close(W.reshape(f, -1) @ M + b, layers.channel_rows(out))

    G_M = (W.reshape(f, -1).T @ layers.channel_rows(G)).reshape(channels, k_h, k_w, h_out, w_out, n)
    T11 = np.zeros_like(Z)
    for c, y, x, e in np.ndindex(Z.shape):
        T11[c, y, x, e] = sum(
            G_M[c, a, b, y1, x1, e]
            for a, b, y1, x1 in np.ndindex(k_h, k_w, h_out, w_out)
            if t * y1 + a == y and t * x1 + b == x
        )
    T11 = T11[:, p:-p, p:-p].transpose(3, 0, 1, 2)
    assert_close(T11, layers.conv_backward(G, cache)[0])
    assert_close(T11, slope(lambda images: (G * layers.conv_forward(images, W, b, t, p)[0]).sum(), images))


def test_document_as_backward_pass_is_ours():
    """Section 14: (21)-(37) as document A writes them, with n G for G and the 1_n^T that (37) lacks."""
    rng, lam, eps = np.random.default_rng(0), 0.1, 0.01
    params = {
        key: param + 0.1 * rng.standard_normal(param.shape)
        for key, param in kbn.init_params([5, 4, 3, 6], rng, batch_norm=True, dtype=np.float64).items()
    }
    X, Y, n, k = rng.standard_normal((5, 7)), kbn.one_hot(rng.integers(0, 6, 7), 6, np.float64), 7, 3
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
    ours = kbn.backward(Y, params, cache, lam)
    assert ours.keys() == grads.keys() == params.keys()
    for key, grad in grads.items():
        if key in ("b1", "b2"):
            assert max(np.abs(grad).max(), np.abs(ours[key]).max()) < 1e-15
        else:
            assert_close(ours[key], grad)
