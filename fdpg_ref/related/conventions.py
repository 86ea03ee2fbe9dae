"""Converters between this project's parameters and those of papers and libraries.

Every pair is a bijection, round-tripped in the tests together with the identity it stands for.
"""

from __future__ import annotations

# Go et al. (2023), arXiv 2302.08215, Table 1, list f(t) = t log t - (t + 1) log((t + 1)/2) for
# Jensen-Shannon: twice the textbook generator, with f'(inf) = log 2 instead of (log 2)/2.
PAPER_JENSEN_SHANNON_SCALE = 2.0


def alpha_from_amari(amari: float) -> float:
    """Return alpha = (1 + a) / 2 for Amari's a: f(t) = 4 (1 - t^((1+a)/2)) / (1 - a^2).

    His a = -1 is forward KL and a = 1 reverse KL; a and -a are dual. Source: Amari (2009),
    doi 10.1109/TIT.2009.2030485, with the policy in the place of the first argument.

    Parameters
    ----------
    amari : float
        Amari's parameter.

    Returns
    -------
    float
        The alpha of `alpha_divergence`.
    """
    return (1 + amari) / 2


def amari_from_alpha(alpha: float) -> float:
    """Return Amari's a = 2 alpha - 1; see `alpha_from_amari`.

    Parameters
    ----------
    alpha : float
        The alpha of `alpha_divergence`.

    Returns
    -------
    float
        Amari's parameter.
    """
    return 2 * alpha - 1


def alpha_from_alpha_dpg(alpha: float) -> float:
    """Return the alpha of `alpha_divergence` for that of alpha-DPG: they agree.

    alpha-DPG interpolates from forward KL at alpha to 0 to reverse KL at alpha to 1. Source:
    Kruszewski et al. (2026), arXiv 2512.05962, where D_alpha(pi||p) has the policy first.

    Parameters
    ----------
    alpha : float
        The paper's alpha.

    Returns
    -------
    float
        The same number.
    """
    return alpha


def alpha_dpg_from_alpha(alpha: float) -> float:
    """Return the alpha of alpha-DPG; see `alpha_from_alpha_dpg`.

    Parameters
    ----------
    alpha : float
        The alpha of `alpha_divergence`.

    Returns
    -------
    float
        The same number.
    """
    return alpha


def weight_from_gkd_beta(beta: float) -> float:
    """Return the weight 1 - beta of `skew_jensen_shannon` for the beta of GKD.

    GKD's JSD(beta) is beta KL(teacher||m) + (1 - beta) KL(student||m) with the mixture
    m = beta teacher + (1 - beta) student; here the student is the policy and carries the weight.
    Source: Agarwal et al. (2024), arXiv 2306.13649, Eq. 1. beta to 0, divided by beta, is forward
    KL(teacher||student); libraries switch to the KL divergences at the ends, a jump in scale.

    Parameters
    ----------
    beta : float
        GKD's beta, strictly between 0 and 1.

    Returns
    -------
    float
        The weight of the policy.
    """
    return 1 - beta


def gkd_beta_from_weight(weight: float) -> float:
    """Return GKD's beta = 1 - weight; see `weight_from_gkd_beta`.

    Parameters
    ----------
    weight : float
        The weight of `skew_jensen_shannon`.

    Returns
    -------
    float
        GKD's beta.
    """
    return 1 - weight
