"""Every loss of trainer/src/loss, with its gradients, as PyTorch's autograd has them: the numbers that the tests called
`..._against_the_oracle` record.

    python3 tests/oracle/losses.py      (Python 3.11.7, torch 2.9.1, double precision)

Written from the equations, one trajectory after the other in plain loops over its own actions; nothing is padded,
masked or batched, so that it shares no trick with the Rust code. What OREO gives here must equal what
trainer/tests/oracle/oreo_golden.py gives by complex steps; the script holds the two together itself.
"""

import math
import statistics

import torch

torch.set_default_dtype(torch.float64)


def leaf(rows):
    """Numbers that gradients are taken of: rows of one-number tensors."""
    return [[torch.tensor(x, requires_grad=True) for x in row] for row in rows]


def grads(rows):
    return [[0.0 if x.grad is None else x.grad.item() for x in row] for row in rows]


def mean(xs):
    xs = list(xs)
    return sum(xs) / len(xs)


def show(name, x):
    print(f"{name}: {x!r}")


def learn(name, loss, **parameters):
    """Print the loss and, by name, the gradient of each of its parameters; None where none arrives."""
    loss.backward()
    show(name, loss.item())
    out = {"loss": loss.item()}
    for of, rows in parameters.items():
        untouched = all(x.grad is None for row in rows for x in row)
        out[of] = None if untouched else [x for row in grads(rows) for x in row]
        show(f"{name}, gradient of {of}", out[of])
    return out


def hold(name, got, expected):
    """A number recorded from the other oracle."""
    assert len(got) == len(expected) and all(abs(a - b) < 1e-14 for a, b in zip(got, expected)), (name, got, expected)


# ---- Supervised fine-tuning, rejection sampling ----


def sft():
    """-log softmax of the written token, over all written tokens of the batch; logits of a vocabulary of 3."""
    logits = [[[0.5, -0.2, 0.1], [0.0, 1.0, -1.0]], [[0.3, 0.3, -0.6]]]
    targets = [[0, 2], [1]]
    rows = leaf([position for row in logits for position in row])
    chosen = [target for row in targets for target in row]
    logprobs = [row[target] - torch.logsumexp(torch.stack(row), 0) for row, target in zip(rows, chosen)]
    show("sft logprobs", [x.item() for x in logprobs])
    learn("sft", -mean(logprobs), logits=rows)

    by_hand = leaf([[-0.5, -1.0], [-3.0]])
    got = learn("sft by hand", -mean(x for row in by_hand for x in row), logprobs=by_hand)
    hold("sft.rs, mean_over_counted_tokens_by_hand", [got["loss"]] + got["logprobs"], [1.5] + [-1 / 3] * 3)


def rejection_sampling():
    rollouts, returns = leaf([[-0.4, -1.1, -0.3], [-2.0, -0.7], [-0.9, -1.6]]), [1.0, 0.0, 1.0]
    kept = [x for row, R in zip(rollouts, returns) if R == 1.0 for x in row]
    learn("rejection sampling", -mean(kept), logprobs=rollouts)


# ---- OREO ----

BETA = 0.5
L = [[0.4, -0.2, 0.1], [-0.3, 0.5]]
V = [[0.2, 0.5, 0.9], [0.1, -0.4]]
U = [[0.3, 0.6, 0.8], [0.0, -0.1]]
R = [1.0, 0.0]


def oreo_value(l, v, R):
    T = len(l)
    return mean((v[t] - R + BETA * sum(l[i].detach() for i in range(t, T))) ** 2 for t in range(T))


def oreo_policy(l, v, R):
    T = len(l)
    later = [BETA * sum(l[i].detach() for i in range(t + 1, T)) for t in range(T)]
    return mean((v[t].detach() - R + BETA * l[t] + later[t]) ** 2 for t in range(T))


def oreo_after(l, u, R):
    T = len(l)
    return mean((u[t] - R + BETA * sum(l[i].detach() for i in range(t + 1, T))) ** 2 for t in range(T))


def oreo():
    recorded = {
        "value": (0.136875, "v", [-0.21666666666666665, -0.18333333333333338, -0.01666666666666666, 0.1, -0.075]),
        "policy": (0.136875, "l", [-0.10833333333333336, -0.09166666666666665, -0.00833333333333333, 0.05, -0.0375]),
        "after": (0.13895833333333335, "u", [-0.25, -0.11666666666666667, -0.06666666666666665, 0.125, -0.05]),
        "response policy": (0.23125, "l", [-0.325, -0.325, -0.325, 0.1, 0.1]),
        "response value": (0.23125, "v", [-0.65, 0.0, 0.0, 0.2, 0.0]),
    }
    losses = {
        "value": lambda l, v, u, R: oreo_value(l, v, R),
        "policy": lambda l, v, u, R: oreo_policy(l, v, R),
        "after": lambda l, v, u, R: oreo_after(l, u, R),
        "response policy": lambda l, v, u, R: (v[0].detach() - R + BETA * sum(l)) ** 2,
        "response value": lambda l, v, u, R: (v[0] - R + BETA * sum(x.detach() for x in l)) ** 2,
    }
    for name, loss in losses.items():
        l, v, u = leaf(L), leaf(V), leaf(U)
        got = learn(f"oreo {name}", mean(loss(l[i], v[i], u[i], R[i]) for i in range(2)), l=l, v=v, u=u)
        value, of, gradient = recorded[name]
        hold(f"oreo.rs, {name}", [got["loss"]] + got[of], [value] + gradient)
        assert all(got[other] is None for other in "lvu" if other != of), name


REWARDS = [[0.25, 0.0, 1.0], [0.0, 0.5]]
GAMMA = 0.9


def discounted(xs, t, gamma):
    return sum(gamma ** (i - t) * xs[i] for i in range(t, len(xs)))


def clipped(x, limit):
    return x if limit is None else max(-limit, min(limit, x))


def discounted_value(l, v, r, gamma, limit=None):
    """The squared residuals of one trajectory, one for each turn; the sums of log-ratios have no gradient."""
    soft = [clipped(BETA * discounted([x.item() for x in l], t, gamma), limit) for t in range(len(l))]
    return [(v[t] - discounted(r, t, gamma) + soft[t]) ** 2 for t in range(len(l))]


def discounted_policy(l, v, r, gamma):
    later = [BETA * gamma * discounted([x.item() for x in l], t + 1, gamma) for t in range(len(l))]
    return [(v[t].detach() - discounted(r, t, gamma) + BETA * l[t] + later[t]) ** 2 for t in range(len(l))]


def discounted_after(l, u, r, gamma, limit=None):
    soft = [clipped(BETA * gamma * discounted([x.item() for x in l], t + 1, gamma), limit) for t in range(len(l))]
    return [(u[t] - discounted(r, t, gamma) + soft[t]) ** 2 for t in range(len(l))]


def oreo_extensions():
    """A discount per turn, a clip of the summed log-ratios, and the mean over all turns of the batch in place of the
    mean within each trajectory."""
    losses = {
        "value": lambda l, v, u, r, gamma, limit: discounted_value(l, v, r, gamma, limit),
        "policy": lambda l, v, u, r, gamma, limit: discounted_policy(l, v, r, gamma),
        "after": lambda l, v, u, r, gamma, limit: discounted_after(l, u, r, gamma, limit),
    }
    for gamma, limit in [(1.0, None), (GAMMA, None), (GAMMA, 0.1)]:
        for name, loss in losses.items():
            l, v, u = leaf(L), leaf(V), leaf(U)
            own = mean(mean(loss(l[i], v[i], u[i], REWARDS[i], gamma, limit)) for i in range(2))
            learn(f"oreo {name}, gamma {gamma}, clip {limit}, by trajectory", own, l=l, v=v, u=u)
            l, v, u = leaf(L), leaf(V), leaf(U)
            whole = mean(x for i in range(2) for x in loss(l[i], v[i], u[i], REWARDS[i], gamma, limit))
            learn(f"oreo {name}, gamma {gamma}, clip {limit}, by batch", whole, l=l, v=v, u=u)
    # Without the extensions they are the published losses, whose rewards come at the end.
    for name, published in [("value", oreo_value), ("policy", oreo_policy), ("after", oreo_after)]:
        for i in range(2):
            l, v, u = leaf(L), leaf(V), leaf(U)
            terminal = [0.0] * (len(L[i]) - 1) + [R[i]]
            mine = mean(losses[name](l[i], v[i], u[i], terminal, 1.0, None)).item()
            hold(f"{name} without extensions", [mine], [published(l[i], u[i] if name == "after" else v[i], R[i]).item()])


def golden_a_discounted():
    """Tree A with gamma .9: its soft-Bellman optimum, the losses at the start and at the point of golden_a, and the
    gradients there."""
    reference = [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]]
    leaves = [BETA * math.log(p + q * math.exp(1 / BETA)) for p, q in [(0.75, 0.25), (0.6, 0.4)]]
    roots = [0.5 * math.exp(GAMMA * leaf_value / BETA) for leaf_value in leaves]
    show("A discounted V*", [BETA * math.log(sum(roots))] + leaves)
    show("A discounted pi* of the root", [x / sum(roots) for x in roots])
    points = {
        "start": ([[math.log(p) for p in row] for row in reference], [0.0, 0.0, 0.0]),
        "point": ([[0.2, -0.1], [0.3, 0.0], [-0.4, 0.1]], [0.3, 0.6, 0.2]),
    }
    for where, (logits, values) in points.items():
        for name, loss in [("value", discounted_value), ("policy", discounted_policy)]:
            theta, v = leaf(logits), leaf([values])
            terms = []
            for first in range(2):
                for second in range(2):
                    l = [torch.log_softmax(torch.stack(theta[s]), 0)[a] - math.log(reference[s][a])
                         for s, a in [(0, first), (1 + first, second)]]
                    rewards = [0.0, 1.0 if first == second else 0.0]
                    terms.append(mean(loss(l, [v[0][0], v[0][1 + first]], rewards, GAMMA)))
            learn(f"A discounted {name} at {where}", mean(terms), logits=theta, values=v)


def golden_c():
    """One choice, and a length that chance decides. Action a wins at once or, as often, loses after a second, forced
    turn; action b wins or loses after two turns. Q* of both is 1/2, so pi* = (1/2, 1/2) and V* = 1/2. OREO rests at the
    weighted mean of the rewards of each action; descent finds the same point."""
    paths = [(0, 1, 1.0), (0, 2, 0.0), (1, 2, 1.0), (1, 2, 0.0)]  # action, turns, reward
    for name, weight in [("trajectory", lambda turns: 1 / turns), ("batch", lambda turns: 1.0)]:
        q = [sum(weight(T) * r for a, T, r in paths if a == action) / sum(weight(T) for a, T, _ in paths if a == action)
             for action in range(2)]
        odds = [0.5 * math.exp(x / BETA) for x in q]
        expected = [x / sum(odds) for x in odds] + [BETA * math.log(sum(odds))]
        show(f"C rests by {name}", expected)
        theta, value = [0.0, 0.0], 0.0
        for _ in range(20000):
            odds = [math.exp(x) for x in theta]
            pi = [x / sum(odds) for x in odds]
            slopes, slope = [0.0, 0.0], 0.0
            for action, turns, reward in paths:
                pull = 2 * weight(turns) / 4 * (value - reward + BETA * math.log(pi[action] / 0.5))
                slope += pull
                slopes = [s + pull * BETA * ((j == action) - pi[j]) for j, s in enumerate(slopes)]
            theta, value = [x - 0.1 * s for x, s in zip(theta, slopes)], value - 0.1 * slope
        assert all(abs(a - b) < 1e-10 for a, b in zip(pi + [value], expected)), (name, pi, value, expected)


def oreo_kl():
    """Exact KL to the reference; the first trajectory has two action tokens, the second one."""
    logits = leaf([[0.5, -0.2, 0.1], [0.0, 1.0, -1.0], [0.3, 0.3, -0.6]])
    reference = torch.tensor([[0.1, 0.0, 0.4], [0.2, 0.2, 0.2], [-0.5, 0.1, 0.7]])

    def kl(i):
        policy = torch.log_softmax(torch.stack(logits[i]), 0)
        return (policy.exp() * (policy - torch.log_softmax(reference[i], 0))).sum()

    got = learn("kl", mean([mean([kl(0), kl(1)]), kl(2)]), logits=logits)
    gradient = [
        0.04084648488344257, -0.014091431643814342, -0.02675505323962822,
        -0.03519258936740753, 0.07064686276986058, -0.035454273402453045,
        0.1255095247047597, 0.0008507603985826536, -0.12636028510334232,
    ]
    hold("oreo.rs, exact_kl_against_the_oracle", [got["loss"]] + got["logits"], [0.24618924364871775] + gradient)


def k3():
    l = leaf(L)
    learn("k3", mean(mean(torch.exp(-x) - 1 + x for x in row) for row in l), l=l)


# ---- DQO, DRO ----


def n_step(l, v, r, beta, h, n):
    to_come = sum(r[j] - beta * l[j].detach() for j in range(h, h + n))
    return to_come + (v[h + n].detach() if h + n < len(l) else 0.0)


def lambda_return(l, v, r, beta, lam, h):
    """The sum over n, with the weight of its last term; 0 at the end."""
    N = len(l) - h
    if N == 0:
        return torch.tensor(0.0)
    mixed = sum(lam ** (n - 1) * n_step(l, v, r, beta, h, n) for n in range(1, N))
    return (1 - lam) * mixed + lam ** (N - 1) * n_step(l, v, r, beta, h, N)


def dqo_weight(l):
    return min(math.exp(sum(x.item() for x in l)), math.e)


def dqo_value(l, v, r, beta, lam):
    return mean((lambda_return(l, v, r, beta, lam, h) - v[h]) ** 2 for h in range(len(l)))


def dqo_policy(l, v, r, beta, lam):
    targets = [r[h] + lambda_return(l, v, r, beta, lam, h + 1) for h in range(len(l))]
    return mean((v[h].detach() + beta * l[h] - targets[h]) ** 2 for h in range(len(l)))


def dqo():
    r = [[0.25, 0.0, 1.0], [0.0, 0.5]]
    l, v = leaf(L), leaf(V)
    show("dqo weights", [dqo_weight(row) for row in l])
    for lam in [0.0, 0.95]:
        returns = [lambda_return(l[i], v[i], r[i], BETA, lam, h).item() for i in range(2) for h in range(len(l[i]))]
        show(f"dqo lambda-returns, lambda {lam}", returns)
        for name, loss in [("value", dqo_value), ("policy", dqo_policy)]:
            l, v = leaf(L), leaf(V)
            weighted = mean(dqo_weight(l[i]) * loss(l[i], v[i], r[i], BETA, lam) for i in range(2))
            learn(f"dqo {name}, lambda {lam}", weighted, l=l, v=v)


def golden_a():
    """Tree A of trainer/tests/golden.rs: two turns, two actions, beta 1/2, each path once."""
    reference = [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]]
    points = {
        "start": ([[math.log(p) for p in row] for row in reference], [0.0, 0.0, 0.0]),
        "point": ([[0.2, -0.1], [0.3, 0.0], [-0.4, 0.1]], [0.3, 0.6, 0.2]),
    }
    for where, (logits, values) in points.items():
        def paths():
            for first in range(2):
                for second in range(2):
                    l = [torch.log_softmax(torch.tensor(logits[s]), 0)[a] - math.log(reference[s][a])
                         for s, a in [(0, first), (1 + first, second)]]
                    v = [torch.tensor(values[s]) for s in [0, 1 + first]]
                    yield l, v, [0.0, 1.0 if first == second else 0.0]

        for lam in [0.95, 1.0]:
            for name, loss in [("value", dqo_value), ("policy", dqo_policy)]:
                show(f"A dqo {name} at {where}, lambda {lam}", mean(loss(*p, BETA, lam) for p in paths()).item())
        show(f"A dro at {where}", mean((sum(r) - v[0] - BETA * sum(l)) ** 2 for l, v, r in paths()).item())


def dro():
    P, S, R = [[0.3, 0.2, -1.5]], [[0.2, 0.1, 0.6]], [1.0, 0.0, 1.0]
    rho, v = leaf(P), leaf(S)
    learn("dro value", mean((R[i] - v[0][i] - BETA * rho[0][i].detach()) ** 2 for i in range(3)), rho=rho, v=v)
    rho, v = leaf(P), leaf(S)
    learn("dro policy", mean((R[i] - v[0][i].detach() - BETA * rho[0][i]) ** 2 for i in range(3)), rho=rho, v=v)


# ---- DPO, KTO ----


def dpo():
    chosen, rejected = leaf([[1.5, -0.5, 0.2]]), leaf([[-2.0, 0.5, 0.2]])
    terms = [-torch.log(1 / (1 + torch.exp(-0.1 * (w - l)))) for w, l in zip(chosen[0], rejected[0])]
    learn("dpo", mean(terms), chosen=chosen, rejected=rejected)


def kto():
    beta, desirable_weight, undesirable_weight = 0.1, 1.0, 1.5
    z0 = max(0.0, mean([1.2, -0.3, 0.5, 1.4]))
    show("kto reference point", z0)
    rho = leaf([[1.5, -0.5, 3.0, -4.0]])
    terms = []
    for x, desirable in zip(rho[0], [True, False, False, True]):
        if desirable:
            terms.append(desirable_weight - desirable_weight / (1 + torch.exp(-beta * (x - z0))))
        else:
            terms.append(undesirable_weight - undesirable_weight / (1 + torch.exp(-beta * (z0 - x))))
    learn("kto", mean(terms), rho=rho)


# ---- GRPO, GiGPO ----


def standardised(returns):
    spread = statistics.pstdev(returns)
    return [0.0 if spread == 0 else (x - statistics.fmean(returns)) / spread for x in returns]


def surrogate(rho, advantages, clip):
    terms = []
    for x, advantage in zip(rho, advantages):
        ratio = torch.exp(x)
        terms.append(torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - clip, 1 + clip) * advantage))
    return -mean(terms)


def grpo():
    show("grpo advantages", standardised([1.0, 0.0, 0.25, 1.0, 0.0]))
    rho, advantages = leaf([[0.1, 0.4, -0.5], [-0.1, 0.3]]), [[1.2] * 3, [-0.8] * 2]
    learn("grpo surrogate", mean(surrogate(rho[i], advantages[i], 0.2) for i in range(2)), rho=rho)


def gigpo():
    """Three episodes of one task, discount .9, omega 1/2; then the surrogate with their advantages."""
    states, rewards = [[1, 2, 3], [1, 1, 2, 3], [1, 4]], [1.0, 1.0, 0.0]
    to_go = [[sum(0.9 ** (j - k) * (R if j == len(s) - 1 else 0.0) for j in range(k, len(s))) for k in range(len(s))]
             for s, R in zip(states, rewards)]
    anchors = []
    for i, row in enumerate(states):
        anchors.append([])
        for k, state in enumerate(row):
            group = [to_go[j][m] for j in range(3) for m in range(len(states[j])) if states[j][m] == state]
            equal = max(group) - min(group) < 1e-12
            anchors[i].append(0.0 if equal else (to_go[i][k] - statistics.fmean(group)) / statistics.pstdev(group))
    episodes = standardised(rewards)
    combined = [[episodes[i] + 0.5 * a for a in anchors[i]] for i in range(3)]
    show("gigpo anchor advantages", anchors)
    show("gigpo combined advantages", combined)
    rho = leaf([[0.1, -0.3, 0.3], [0.0, 0.2, -0.1, 0.4], [0.1, -0.4]])
    learn("gigpo surrogate", mean(surrogate(rho[i], combined[i], 0.2) for i in range(3)), rho=rho)


# ---- Ranking within a state ----


def ranking():
    """Three states: three candidates; two candidates; two with equal labels. Temperature .1, beta 1/2."""
    tau, beta = 0.1, 0.5
    labels = [[0.5, 0.25, 0.3], [0.9, 0.75], [0.5, 0.5]]
    point = [[0.3, 0.1, 0.25], [0.6, 0.7], [0.2, 0.4]]
    pairs = [[(k, j) for j in range(len(row)) for k in range(j)] for row in labels]
    weights = [0.0 if max(row) == min(row) else 1.0 for row in labels]

    def advantage(U, G, _):
        return sum(((u - mean(U)) - (g - mean(G))) ** 2 for u, g in zip(U, G))

    def listwise(U, G, _):
        total = sum(math.exp(g / tau) for g in G)
        logs = [u / tau - torch.log(sum(torch.exp(x / tau) for x in U)) for u in U]
        return tau**2 * sum(-math.exp(g / tau) / total * log for g, log in zip(G, logs))

    def bradley_terry(U, G, pairs):
        terms = []
        for k, j in pairs:
            for a, b in ((k, j), (j, k)):
                p = 1 / (1 + math.exp(-(G[a] - G[b]) / tau))
                terms.append(p * torch.log(1 + torch.exp(-(U[a] - U[b]) / tau)))
        return tau**2 * sum(terms)

    for name, loss in (("advantage", advantage), ("listwise", listwise), ("bradley_terry", bradley_terry)):
        U = leaf(point)
        learn(f"ranking {name}", mean(w * loss(*x) for w, x in zip(weights, zip(U, labels, pairs))), U=U)
    l = leaf(point)
    of_pairs = [mean((beta * (x[k] - x[j]) - (G[k] - G[j])) ** 2 for k, j in p) for x, G, p in zip(l, labels, pairs)]
    learn("ranking policy", mean(of_pairs), l=l)


if __name__ == "__main__":
    for part in [sft, rejection_sampling, oreo, oreo_extensions, golden_a_discounted, golden_c, oreo_kl, k3, dqo,
                 golden_a, dro, dpo, kto, grpo, gigpo, ranking]:
        part()
