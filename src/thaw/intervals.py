"""How far a share of so many photos can be trusted. Nothing here imports torch."""

import math


def wilson(correct: float, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); unlike the normal one it holds near 0 and 1.

    Another `z` is that of another level.

    >>> [round(x, 3) for x in wilson(144, 153)]
    [0.892, 0.969]
    """
    share, extra = correct / total, z * z / total
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def clopper_pearson_upper(errors: int, total: int, alpha: float) -> float:
    """The largest error rate that `errors` of `total` photos leave plausible, at one-sided `alpha`.

    The exact bound of Clopper & Pearson 1934: the rate at which that few errors, or fewer, come
    with probability `alpha`. The true rate is above it in at most a share `alpha` of all samples.
    Half the `alpha` gives the upper end of their two-sided interval. 1 where there are no photos.

    >>> round(clopper_pearson_upper(0, 100, 0.05), 4)  # the "rule of three"
    0.0295
    >>> round(clopper_pearson_upper(10, 100, 0.025), 4)
    0.1762
    """
    if errors >= total:
        return 1.0
    low, high = errors / total, 1.0
    while low < (middle := (low + high) / 2) < high:
        if binomial_cdf(errors, total, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Probability of at most `k` >= 0 of `n`, each with probability 0 < `p` < 1.

    >>> round(binomial_cdf(2, 10, 0.5), 10)
    0.0546875
    """
    if k >= n:
        return 1.0
    if k > n * p:  # sum the shorter tail: its terms fall from the first one on
        return 1.0 - binomial_cdf(n - k - 1, n, 1 - p)
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    term = math.exp(log_term + k * math.log(p) + (n - k) * math.log1p(-p))
    total = 0.0
    while k >= 0 and term > 1e-17 * total:
        total += term
        term *= k / (n - k + 1) * (1 - p) / p
        k -= 1
    return total
