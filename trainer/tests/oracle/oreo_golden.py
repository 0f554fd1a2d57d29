"""The numbers that trainer/src/selftest and trainer/src/loss/oreo.rs must reproduce; standard library only.

    python3 trainer/tests/oracle/oreo_golden.py

Independent of the Rust code: optima by backward induction, losses as plain sums over lists, gradients by complex
steps (df/dx = Im f(x + ih) / h, exact to rounding), stop-gradients by freezing what they enclose.
"""

import cmath
import math

H = 1e-30


def log_softmax(logits):
    total = sum(cmath.exp(x) for x in logits)
    return [x - cmath.log(total) for x in logits]


def real(x):
    return x.real if isinstance(x, complex) else x


def frozen(x):
    """The stop-gradient: a value without its imaginary step."""
    return real(x)


# The losses of one trajectory, with lists l, v, u, R over its own actions.

def value_terms(l, v, R, beta):
    return [(v[t] - R[t] + beta * sum(map(frozen, l[t:]))) ** 2 for t in range(len(l))]


def policy_terms(l, v, R, beta, stop=True):
    hold = frozen if stop else (lambda x: x)
    return [(frozen(v[t]) - R[t] + beta * l[t] + beta * sum(hold(x) for x in l[t + 1:])) ** 2 for t in range(len(l))]


def after_terms(l, u, R, beta):
    return [(u[t] - R[t] + beta * sum(map(frozen, l[t + 1:]))) ** 2 for t in range(len(l))]


def mean(xs):
    return sum(xs) / len(xs)


def show(name, x):
    x = [real(y) for y in x] if isinstance(x, (list, tuple)) else real(x)
    print(f"{name}: {x!r}")


def gradient(f, xs):
    out = []
    for i in range(len(xs)):
        stepped = list(xs)
        stepped[i] = xs[i] + 1j * H
        out.append(f(stepped).imag / H)
    return out


# Two-turn, two-action trees with a root and two leaves A and B; R[state][action] at the leaves.

def optimum(beta, ref, to_a, R):
    v, pi, q = {}, {}, {}
    for s in "AB":
        q[s] = R[s]
    for s in "AB0":
        if s == "0":
            q[s] = [p * v["A"] + (1 - p) * v["B"] for p in to_a]
        v[s] = beta * math.log(sum(p * math.exp(x / beta) for p, x in zip(ref[s], q[s])))
        pi[s] = [p * math.exp((x - v[s]) / beta) for p, x in zip(ref[s], q[s])]
    return v, pi, q


def paths(to_a, behaviour):
    """(weight, first action, leaf, second action)."""
    for a in range(2):
        for leaf in "AB":
            reach = to_a[a] if leaf == "A" else 1 - to_a[a]
            for b in range(2):
                weight = behaviour["0"][a] * reach * behaviour[leaf][b]
                if weight > 0:
                    yield weight, a, leaf, b


def tree_losses(beta, ref, to_a, R, behaviour, flat):
    """flat: logits of 0, A, B, then V of 0, A, B, then U of 0, A, B by action."""
    logits = {"0": flat[0:2], "A": flat[2:4], "B": flat[4:6]}
    v = {"0": flat[6], "A": flat[7], "B": flat[8]}
    u = {"0": flat[9:11], "A": flat[11:13], "B": flat[13:15]}
    l = {s: [x - math.log(p) for x, p in zip(log_softmax(logits[s]), ref[s])] for s in "0AB"}
    out = dict.fromkeys(["value", "policy", "policy_without_sg", "after", "response"], 0)
    for weight, a, leaf, b in paths(to_a, behaviour):
        ls, vs, us = [l["0"][a], l[leaf][b]], [v["0"], v[leaf]], [u["0"][a], u[leaf][b]]
        Rs = [R[leaf][b]] * 2
        out["value"] += weight * mean(value_terms(ls, vs, Rs, beta))
        out["policy"] += weight * mean(policy_terms(ls, vs, Rs, beta))
        out["policy_without_sg"] += weight * mean(policy_terms(ls, vs, Rs, beta, stop=False))
        out["after"] += weight * mean(after_terms(ls, us, Rs, beta))
        out["response"] += weight * policy_terms(ls, vs, Rs, beta, stop=False)[0]
    return out


HALF = {"0": [0.5, 0.5], "A": [0.5, 0.5], "B": [0.5, 0.5]}
A = dict(
    beta=0.5,
    ref={"0": [0.5, 0.5], "A": [0.25, 0.75], "B": [0.6, 0.4]},
    to_a=[1.0, 0.0],
    R={"A": [1.0, 0.0], "B": [0.0, 1.0]},
)
B = dict(
    beta=0.5,
    ref={"0": [0.5, 0.5], "A": [0.3, 0.7], "B": [0.6, 0.4]},
    to_a=[0.8, 0.3],
    R={"A": [1.0, 0.0], "B": [0.0, 0.5]},
)
B_BEHAVIOUR = {"0": [0.5, 0.5], "A": [0.4, 0.6], "B": [0.5, 0.5]}
POINT = [0.2, -0.1, 0.3, 0.0, -0.4, 0.1] + [0.3, 0.6, 0.2] + [0.5, 0.1, 0.7, -0.2, 0.4, 0.9]


def tree(name, case, behaviour):
    v, pi, q = optimum(**case)
    for what, table in [("V*", v), ("pi*", pi), ("Q*", q)]:
        show(f"{name} {what}", [table[s] for s in "0AB"] if what == "V*" else sum((table[s] for s in "0AB"), []))
    at_optimum = sum(([math.log(p) for p in pi[s]] for s in "0AB"), []) + [v[s] for s in "0AB"] + sum((q[s] for s in "0AB"), [])
    at_start = sum(([math.log(p) for p in case["ref"][s]] for s in "0AB"), []) + [0.0] * 9
    for where, flat in [("optimum", at_optimum), ("start", at_start), ("point", POINT)]:
        for loss, x in tree_losses(behaviour=behaviour, flat=flat, **case).items():
            show(f"{name} {loss} at {where}", x)
    for loss, span in [("value", (6, 9)), ("policy", (0, 6)), ("policy_without_sg", (0, 6)), ("after", (9, 15)), ("response", (0, 6))]:
        grads = gradient(lambda flat: tree_losses(behaviour=behaviour, flat=flat, **case)[loss], POINT)
        show(f"{name} gradient of {loss} at point", grads[slice(*span)])


def ragged():
    """Two trajectories of 3 and 2 actions, beta .5."""
    beta = 0.5
    l = [[0.4, -0.2, 0.1], [-0.3, 0.5]]
    v = [[0.2, 0.5, 0.9], [0.1, -0.4]]
    u = [[0.3, 0.6, 0.8], [0.0, -0.1]]
    R = [[1.0, 1.0, 1.0], [0.0, 0.0]]

    def over(terms, first):
        def f(xs):
            rows = [xs[:3], xs[3:]]
            return mean([mean(terms(i, rows[i])) for i in range(2)])
        flat = first[0] + first[1]
        return f(flat), gradient(f, flat)

    for name, (loss, grads) in {
        "value": over(lambda i, x: value_terms(l[i], x, R[i], beta), v),
        "policy": over(lambda i, x: policy_terms(x, v[i], R[i], beta), l),
        "after": over(lambda i, x: after_terms(l[i], x, R[i], beta), u),
        "response policy": over(lambda i, x: policy_terms(x, v[i], R[i], beta, stop=False)[:1], l),
        "response value": over(lambda i, x: value_terms(l[i], x, R[i], beta)[:1], v),
    }.items():
        show(f"ragged {name}", loss)
        show(f"ragged gradient of {name}", grads)


def kl():
    """Vocabulary 3; the first trajectory has two action tokens, the second one."""
    logits = [[0.5, -0.2, 0.1], [0.0, 1.0, -1.0], [0.3, 0.3, -0.6]]
    reference = [[0.1, 0.0, 0.4], [0.2, 0.2, 0.2], [-0.5, 0.1, 0.7]]
    masked = [9.0, -9.0, 0.0]

    def f(flat):
        out = []
        for i in range(3):
            p, q = log_softmax(flat[3 * i:3 * i + 3]), log_softmax(reference[i])
            out.append(sum(cmath.exp(x) * (x - real(y)) for x, y in zip(p, q)))
        return mean([mean(out[:2]), out[2]])

    flat = sum(logits, [])
    show("kl (masked entry holds %r)" % masked, f(flat))
    show("kl gradient of logits", gradient(f, flat))


if __name__ == "__main__":
    tree("A", A, HALF)
    tree("B", B, B_BEHAVIOUR)
    ragged()
    kl()
