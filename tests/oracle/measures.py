"""Intervals, tests and powers of trainer/src/statistics.rs as scipy and statsmodels have them: the numbers that its tests
record.

    python3 tests/oracle/measures.py      (Python 3.11.7, numpy 2.4.6, scipy 1.17.1, statsmodels 0.15.0)

Newcombe's interval is in neither library: it is written here from his paper and held to the example that he prints.
The bootstrap is held to the exact distribution, by going through every resample, and to scipy's; the smallest
difference that a comparison can find is the root of Connor's equation, and its power that of the exact test, summed over
all outcomes.
"""

import itertools
import math

import numpy
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint


def show(name, *numbers):
    print(f"{name}: " + ", ".join(repr(float(number)) for number in numbers))


def wilson(won, n, confidence):
    low, high = proportion_confint(won, n, 1 - confidence, "wilson")
    return float(low), float(high)


def newcombe(a, b, c, d, confidence):
    """Method 10 of Statistics in Medicine 17 (1998) 2635: a both, b first only, c second only, d neither."""
    n = a + b + c + d
    first, second = (a + b) / n, (a + c) / n
    l1, u1 = wilson(a + b, n, confidence)
    l2, u2 = wilson(a + c, n, confidence)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    phi = 0.0
    if margins > 0:
        product = a * d - b * c
        phi = (max(product - n / 2, 0) if product > 0 else product) / math.sqrt(margins)
    dl1, du1, dl2, du2 = first - l1, u1 - first, second - l2, u2 - second
    low = math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2)
    high = math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2)
    return first - second - low, first - second + high


# (won by the first, played by the first, won by the second, played by the second) of each game
GAMES = [(3, 3, 1, 3), (2, 3, 2, 3), (0, 3, 1, 3), (3, 3, 0, 3), (1, 2, 0, 3), (2, 3, 3, 3)]


def difference(games):
    a, n, b, m = numpy.asarray(games).sum(axis=0)
    return a / n - b / m


def rate(games):
    a, n, _, _ = numpy.asarray(games).sum(axis=0)
    return a / n


def every_resample(statistic, confidence):
    """Exact interval of a statistic over all n^n resamples, and how far each end is from the next step."""
    values = numpy.sort([statistic(resample) for resample in itertools.product(GAMES, repeat=len(GAMES))])
    n = len(values)
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        point = values[math.ceil(share * n) - 1]
        below, upto = numpy.searchsorted(values, point - 1e-12) / n, numpy.searchsorted(values, point + 1e-12) / n
        print(f"  {share:.3f}: {float(point)!r}, whose step goes from {below:.5f} to {upto:.5f}")


def scipy_bootstrap(statistic, games, resamples):
    data = numpy.asarray(games)
    over = lambda index: statistic(data[index])
    result = stats.bootstrap(
        (numpy.arange(len(data)),), over, vectorized=False, method="percentile", n_resamples=resamples, rng=1
    )
    return result.confidence_interval


def connor(n, psi, power=0.8, alpha=0.05):
    za, zb = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    gap = lambda delta: math.sqrt(n) * delta - za * math.sqrt(psi) - zb * math.sqrt(max(psi - delta**2, 0))
    return optimize.brentq(gap, 1e-12, math.sqrt(psi), xtol=1e-15)


def exact_power(n, psi, delta, alpha=0.05):
    """Chance that the exact McNemar test rejects."""
    chance = 0.0
    for discordant in range(n + 1):
        of = stats.binom.pmf(discordant, n, psi)
        if of < 1e-14:
            continue
        wins = numpy.arange(discordant + 1)
        p = numpy.minimum(2 * stats.binom.cdf(numpy.minimum(wins, discordant - wins), discordant, 0.5), 1)
        chance += of * stats.binom.pmf(wins, discordant, (psi + delta) / (2 * psi))[p <= alpha].sum()
    return chance


def main():
    for case in [(106, 134, 0.95), (0, 20, 0.95), (20, 20, 0.95), (3, 10, 0.99), (1, 2, 0.90)]:
        show(f"wilson {case}", *wilson(*case))
    for b, c in [(10, 2), (2, 10), (5, 5), (0, 6), (37, 21), (1, 0), (300, 250)]:
        p = stats.binomtest(b, b + c, 0.5).pvalue
        assert abs(p - mcnemar([[0, b], [c, 0]], exact=True).pvalue) < 1e-12
        show(f"mcnemar {b} : {c}", p)

    low, high = newcombe(36, 12, 2, 0, 0.95)
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404), "the example that the paper prints"
    for table in [(36, 12, 2, 0), (80, 26, 11, 17), (0, 0, 0, 20), (20, 0, 0, 0), (5, 9, 3, 3), (1, 9, 9, 1)]:
        show(f"newcombe {table}", *newcombe(*table, 0.95))

    print("every resample, difference:", difference(GAMES))
    every_resample(difference, 0.92)
    print("every resample, rate of the first:", rate(GAMES))
    every_resample(rate, 0.9)
    rng = numpy.random.default_rng(1)
    many = [(int(rng.random() < 0.7), 1, int(rng.random() < 0.5), 1) for _ in range(134)]
    print("134 games, won by the first:", "".join(str(game[0]) for game in many))
    print("134 games, won by the second:", "".join(str(game[2]) for game in many))
    show("scipy.stats.bootstrap, difference", *scipy_bootstrap(difference, many, 100_000))
    show("scipy.stats.bootstrap, rate of the first", *scipy_bootstrap(rate, many, 100_000))

    for n, psi in [(134, 0.25), (200, 0.1), (50, 0.4), (400, 1.0)]:
        delta = connor(n, psi)
        show(f"connor n {n}, discordant {psi}", delta)
        print(f"  power of the exact test there: {exact_power(n, psi, delta):.3f}")
    differences = [a / n - b / m for a, n, b, m in GAMES]
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    show("paired z", z * numpy.std(differences, ddof=1) / math.sqrt(len(differences)))


main()
