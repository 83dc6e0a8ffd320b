//! Tail probabilities as log10, far below the smallest `f64`.
//!
//! A `double` underflows at 10^-308, where the tests of this crate only begin to be sure, so nothing here passes
//! through the probability itself unless it is close to one. Every result is finite and at most 0; a probability of
//! exactly zero is reported as [`LOG10_ZERO`]. An argument that is not a number gives 0.0, that is p = 1: what could
//! not be computed is never evidence.

use std::f64::consts::{FRAC_1_SQRT_2, LN_10, PI};

/// What stands for the logarithm of a probability of zero, so that results stay finite.
pub const LOG10_ZERO: f64 = f64::MIN;

/// Steps after which the continued fraction is given up; it needs about the square root of its larger parameter.
const MAX_STEPS: u32 = 200_000;

/// log10 of P(T >= t) for Student's t with `df` degrees of freedom.
///
/// For t > 0 this is I_x(df/2, 1/2) / 2 with x = df / (df + t²) and I the regularised incomplete beta function
/// (Abramowitz and Stegun 26.5.27 and 26.7.1); for t < 0 it is one minus the same for -t.
///
/// Domain: any t, df > 0 (infinite: the normal tail); held to 9 digits up to df = 10^6. Returns 0.0 where either is not
/// a number or df is not above zero.
pub fn log10_student_t_sf(t: f64, df: f64) -> f64 {
    if t.is_nan() || df.is_nan() || df <= 0.0 {
        return 0.0;
    }
    if df > 1e9 {
        // Normal to ten digits in z = √(df ln(1 + t²/df)), which has Student's exponent for any t.
        let per_root = t / df.sqrt();
        let z = if df.is_infinite() { t } else { t.signum() * (df * (per_root * per_root).ln_1p()).sqrt() };
        return log10_normal_sf(z);
    }
    let half = 0.5_f64.ln() + ln_student_two_sided(t.abs(), df);
    if t >= 0.0 { from_ln(half) } else { from_ln(ln_one_minus_exp(half)) }
}

/// ln of P(|T| >= t) for t >= 0.
fn ln_student_two_sided(t: f64, df: f64) -> f64 {
    if t == 0.0 {
        return 0.0;
    }
    // With s = t²/df: x = 1/(1+s) and 1-x = s/(1+s), both without cancellation.
    let ln_s = 2.0 * t.ln() - df.ln();
    if ln_s > 600.0 {
        // 1-x is one to within 10^-260: only the leading term x^a / (a B(a, b)) of the series is left.
        let a = df / 2.0;
        return -a * ln_s - a.ln() - ln_beta(a, 0.5);
    }
    let s = t / df.sqrt() * (t / df.sqrt());
    let beta = Beta { a: df / 2.0, b: 0.5, x: 1.0 / (1.0 + s), y: s / (1.0 + s) };
    beta.ln_regularised()
}

/// log10 of the upper tail of a correlation coefficient `r` of `n` pairs, under independence of the pairs' sides.
///
/// Null hypothesis: one side is a random permutation of the other. Then t = r √((n-2) / (1-r²)) is close to Student's t
/// with n-2 degrees of freedom: exactly so for normal scores, to second order for any (Pitman 1937; for ranks Kendall
/// and Stuart, *The Advanced Theory of Statistics*, chapter 31). The approximation knows nothing of the discreteness of
/// permutations, and far in the tail it is the normal model's figure: the order of magnitude of log10 p, not its digits.
/// At r = 1 it would be certain. There are only n! permutations, the most extreme of which has
/// probability 1/n!, so the result is floored at log10(1/n!).
///
/// Domain: -1 <= r <= 1, n >= 4. Returns 0.0 for n < 4, where too few permutations exist to say anything, and for r
/// that is not a number; r >= 1 gives the floor, r <= -1 gives 0.0. With many ties the floor is too low by the number
/// of permutations that leave the data unchanged: break or drop ties first.
pub fn log10_correlation_sf(r: f64, n: u64) -> f64 {
    if n < 4 || r.is_nan() || r <= -1.0 {
        return 0.0;
    }
    let floor = -log10_factorial(n);
    if r >= 1.0 {
        return floor;
    }
    let df = (n - 2) as f64;
    log10_student_t_sf(r * (df / ((1.0 - r) * (1.0 + r))).sqrt(), df).max(floor)
}

/// log10 of P(X >= k) for X binomial with `n` trials of probability `p`: I_p(k, n-k+1), exact (Abramowitz and Stegun
/// 26.5.24).
///
/// Domain: any k and n, 0 <= p <= 1. Returns 0.0 where k = 0, p >= 1 (and k <= n) or p is not a number, and
/// [`LOG10_ZERO`] where k > n or p <= 0 (and k > 0).
pub fn log10_binomial_sf(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p.is_nan() {
        return 0.0;
    }
    if k > n || p <= 0.0 {
        return LOG10_ZERO;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let beta = Beta { a: k as f64, b: (n - k) as f64 + 1.0, x: p, y: 1.0 - p };
    from_ln(beta.ln_regularised())
}

/// log10 of the bound λ^K / K! on P(ΣF >= K), where F are the fixed points of independent uniformly random injections
/// and λ is their expected total: min(0, K log10 λ - log10 K!).
///
/// The K-th factorial moment of the number of fixed points of a random permutation is at most λ^K, and Markov's
/// inequality applied to it gives the bound; it holds for sums of independent ones too.
///
/// Domain: λ >= 0. Returns 0.0 where λ is not a number and [`LOG10_ZERO`] for λ <= 0 and k > 0.
pub fn log10_poisson_like_factorial_bound(k: u64, lambda: f64) -> f64 {
    if k == 0 || lambda.is_nan() {
        return 0.0;
    }
    if lambda <= 0.0 {
        return LOG10_ZERO;
    }
    finite(k as f64 * lambda.log10() - log10_factorial(k))
}

/// log10 of P(Z >= z) for a standard normal Z.
///
/// Up to z = 20 from the complementary error function; above, from the asymptotic series of Mills' ratio (Abramowitz
/// and Stegun 26.2.12), whose terms fall below 10^-17 there before they grow.
///
/// Domain: any z. Returns 0.0 where z is not a number.
pub fn log10_normal_sf(z: f64) -> f64 {
    if z.is_nan() {
        return 0.0;
    }
    if z < 0.0 {
        return from_ln((-0.5 * libm::erfc(-z * FRAC_1_SQRT_2)).ln_1p());
    }
    if z <= 20.0 {
        return from_ln((0.5 * libm::erfc(z * FRAC_1_SQRT_2)).ln());
    }
    let (mut term, mut mills) = (1.0, 1.0);
    for odd in (1..24).step_by(2) {
        term *= -f64::from(odd) / (z * z);
        mills += term;
    }
    from_ln(-0.5 * z * z - z.ln() - 0.5 * (2.0 * PI).ln() + mills.ln())
}

/// log10(n!), by the logarithm of the gamma function.
pub fn log10_factorial(n: u64) -> f64 {
    libm::lgamma(n as f64 + 1.0) / LN_10
}

/// The two-sided Clopper–Pearson interval for a proportion of which `k` of `n` were seen (Biometrika 26, 1934).
///
/// Both ends solve a binomial tail for (1 - confidence) / 2, so the interval covers the true proportion with at least
/// the stated confidence, *provided the trials are independent*. Returns (low, high); (0, 1) where n = 0, k > n or
/// `confidence` is not strictly between 0 and 1.
#[cfg(feature = "_internals")]
pub fn clopper_pearson(k: u64, n: u64, confidence: f64) -> (f64, f64) {
    if n == 0 || k > n || !(confidence > 0.0 && confidence < 1.0) {
        return (0.0, 1.0);
    }
    let alpha = (1.0 - confidence) / 2.0;
    let low = if k == 0 { 0.0 } else { quantile(k, n, alpha) };
    // From the other side: P(X <= k | p) is P(n-X >= n-k | 1-p).
    let high = match k {
        _ if k == n => 1.0,
        0 => -(alpha.ln() / n as f64).exp_m1(),
        _ => 1.0 - quantile(n - k, n, alpha),
    };
    (low, high)
}

/// The p for which P(X >= k) = alpha, by bisection to the last bit; the tail grows with p.
#[cfg(feature = "_internals")]
fn quantile(k: u64, n: u64, alpha: f64) -> f64 {
    let target = alpha.log10();
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if log10_binomial_sf(k, n, middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// A p-value corrected for being the best of `tries` (Bonferroni): min(0, log10 p + log10 tries). Holds whatever the
/// dependence between the tries. No tries count as one.
pub fn log10_corrected(log10_p: f64, tries: u64) -> f64 {
    finite(log10_p + (tries.max(1) as f64).log10())
}

/// Natural to decimal logarithm, kept in the promised range.
fn from_ln(ln: f64) -> f64 {
    finite(ln / LN_10)
}

fn finite(log10: f64) -> f64 {
    // `max` and `min` would turn NaN into the strongest evidence there is.
    if log10.is_nan() { 0.0 } else { log10.clamp(LOG10_ZERO, 0.0) + 0.0 }
}

/// ln(1 - e^v) for v <= 0; NaN for what is not.
fn ln_one_minus_exp(v: f64) -> f64 {
    if v > -std::f64::consts::LN_2 { (-v.exp_m1()).ln() } else { (-v.exp()).ln_1p() }
}

/// ln of `share`, which is one minus `rest`, from whichever of the two is small.
fn ln_of(share: f64, rest: f64) -> f64 {
    if share < 0.5 { share.ln() } else { (-rest).ln_1p() }
}

/// An incomplete beta integral: both ends of the interval are carried, so that neither is lost to cancellation.
#[derive(Clone, Copy)]
struct Beta {
    a: f64,
    b: f64,
    x: f64,
    /// 1 - x.
    y: f64,
}

impl Beta {
    /// ln I_x(a, b), from the continued fraction on whichever side of the mean it converges on.
    fn ln_regularised(self) -> f64 {
        if self.x <= (self.a + 1.0) / (self.a + self.b + 2.0) {
            return self.ln_prefactor() + self.fraction().ln();
        }
        let other = Self { a: self.b, b: self.a, x: self.y, y: self.x };
        ln_one_minus_exp(other.ln_prefactor() + other.fraction().ln())
    }

    /// ln of x^a y^b / (a B(a, b)).
    ///
    /// For large parameters the terms are huge and cancel; they are then put together as in Loader, *Fast and Accurate
    /// Computation of Binomial Probabilities* (2000): the deviance from the mean plus Stirling remainders.
    fn ln_prefactor(self) -> f64 {
        let Self { a, b, x, y } = self;
        if a.min(b) < 10.0 {
            return a * ln_of(x, y) + b * ln_of(y, x) - a.ln() - ln_beta(a, b);
        }
        let n = a + b;
        let remainders = stirling_remainder(n) - stirling_remainder(a) - stirling_remainder(b);
        remainders - deviance(a, n * x) - deviance(b, n * y) + 0.5 * (b / (2.0 * PI * a * n)).ln()
    }

    /// The continued fraction of I_x(a, b) by Lentz's method (Abramowitz and Stegun 26.5.8).
    fn fraction(self) -> f64 {
        const TINY: f64 = 1e-300;
        let Self { a, b, x, .. } = self;
        let away = |v: f64| if v.abs() < TINY { TINY } else { v };
        let mut c = 1.0;
        let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
        let mut value = d;
        for step in 1..=MAX_STEPS {
            let m = f64::from(step);
            let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
            let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
            let mut change = 1.0;
            for coefficient in [even, odd] {
                d = 1.0 / away(1.0 + coefficient * d);
                c = away(1.0 + coefficient / c);
                change *= c * d;
            }
            value *= change;
            if (change - 1.0).abs() < 3e-16 {
                return value;
            }
        }
        // Not converged: no number, so that no evidence comes of it.
        f64::NAN
    }
}

/// ln B(a, b), without the cancellation of three log-gammas where a parameter is large.
fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if large < 10.0 {
        return libm::lgamma(small) + libm::lgamma(large) - libm::lgamma(small + large);
    }
    let share = small / (small + large);
    let rest = stirling_remainder(large) - stirling_remainder(small + large);
    if small < 10.0 {
        return libm::lgamma(small) + rest + small - small * (small + large).ln() + (large - 0.5) * (-share).ln_1p();
    }
    0.5 * (2.0 * PI / large).ln()
        + stirling_remainder(small)
        + rest
        + (small - 0.5) * share.ln()
        + large * (-share).ln_1p()
}

/// What Stirling's formula leaves out of ln Γ(z), for z >= 10 (Abramowitz and Stegun 6.1.41).
fn stirling_remainder(z: f64) -> f64 {
    const TERMS: [f64; 7] =
        [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0];
    let square = 1.0 / (z * z);
    TERMS.iter().rev().fold(0.0, |sum, term| sum * square + term) / z
}

/// x ln(x/mean) + mean - x, by its series where the two are close.
fn deviance(x: f64, mean: f64) -> f64 {
    let difference = x - mean;
    if difference.abs() > 0.1 * (x + mean) {
        return x * (x / mean).ln() - difference;
    }
    let v = difference / (x + mean);
    let mut sum = difference * v;
    let mut power = 2.0 * x * v;
    for odd in (3..200).step_by(2) {
        power *= v * v;
        let next = sum + power / f64::from(odd);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
#[expect(clippy::approx_constant, clippy::unreadable_literal, reason = "golden values as mpmath prints them")]
mod tests {
    use super::*;

    /// t, df, log10 sf. mpmath 1.3, `mp.dps = 50`, x = df/(df+t²), a = df/2, b = 1/2:
    /// `a*log(x) + b*log(1-x) - log(a) - log(beta(a,b)) + log(hyp2f1(a+b, 1, a+1, x)) - log(2)`, over `log(10)`;
    /// one minus it for t < 0.
    #[rustfmt::skip]
    const STUDENT: [(f64, f64, f64); 22] = [
        (0.0,5.0,-0.3010299956639812),
        (0.5,1.0,-0.45294391127404415),
        (1.0,2.0,-0.6750493989585015),
        (2.5,3.0,-1.3579974872519642),
        (-1.5,4.0,-0.0476919903378748),
        (-8.0,10.0,-2.556903865995819e-06),
        (12.0,1.0,-1.5773334176142817),
        (1000000.0,1.0,-6.497149872694279),
        (1000000.0,7.5,-42.56957528760793),
        (3.0,30.0,-2.5694441258652003),
        (0.001,30.0,-0.301373773381774),
        (-0.3,1000.0,-0.20909568787011792),
        (40.0,62.0,-45.56446316975564),
        (120.0,510.0,-375.55196454776444),
        (5.0,4094.0,-6.524835763556346),
        (300.0,4094.0,-2789.010183350137),
        (3000.0,4094.0,-6843.877188072613),
        (2.0,1000000.0,-1.6430135034613311),
        (60.0,1000000.0,-782.5029028067291),
        (100000.0,8190.0,-24927.459623793606),
        (1e+150,12.0,-1794.472630496126),
        (1e+200,3.0,-599.9575592496703),
    ];
    /// r, n, log10 sf: the same with `t = r*sqrt((n-2)/(1-r**2))`, `df = n-2`.
    #[rustfmt::skip]
    const CORRELATION: [(f64, u64, f64); 10] = [
        (0.0,10,-0.3010299956639812),
        (0.5,10,-1.1514621052112264),
        (-0.5,10,-0.03177707115340713),
        (0.1,4096,-10.14987476699566),
        (0.5,4096,-257.65407172182455),
        (0.95,4096,-2071.6904770978),
        (0.99999,4096,-9621.001229927688),
        (-0.02,4096,-0.045911339524630106),
        (0.019,8192,-1.3690158597938642),
        (0.999,16384,-22111.548248942414),
    ];
    /// k, n, p, log10 sf: the same integral with a = k, b = n-k+1, x = p; from the other side where p > k/n.
    #[rustfmt::skip]
    const BINOMIAL: [(u64, u64, f64, f64); 20] = [
        (1,1,0.5,-0.3010299956639812),
        (1,10,0.01,-1.0194606851816614),
        (3,10,0.3,-0.20956197038068675),
        (10,10,0.2,-6.9897000433601875),
        (9,10,0.95,-0.03911955016539528),
        (1,1000,1e-12,-9.00000000021693),
        (50,100,0.5,-0.26777144931512437),
        (500,1000,0.5,-0.29021080009847994),
        (480,1000,0.5,-0.04449657020271497),
        (900,1000,0.5,-161.17381386429895),
        (1000,1000,0.2,-698.9700043360187),
        (92,92,0.2,-64.30524039891372),
        (5000,100000,0.03,-251.52453620970726),
        (10200,100000,0.1,-1.74603579415847),
        (9900,100000,0.1,-0.0678699768452263),
        (20000,1000000,0.01,-1701.9119834617034),
        (500500,1000000,0.5,-0.7988833574524036),
        (4000,4096,0.001,-11803.738812281745),
        (4096,4096,0.000244140625,-14796.226346876003),
        (7,4000000,1e-07,-6.6395848762541565),
    ];
    /// z, log10 sf: `log(erfc(z/sqrt(2))/2)/log(10)`; `log1p(-erfc(-z/sqrt(2))/2)/log(10)` for z < 0.
    #[rustfmt::skip]
    const NORMAL: [(f64, f64); 15] = [
        (-30.0,-2.130958782838292e-198),
        (-5.0,-1.2449121373882918e-07),
        (-1.0,-0.07502601295781802),
        (0.0,-0.3010299956639812),
        (0.1,-0.3370796567266235),
        (1.0,-0.7995455414919705),
        (3.0,-2.869699035929369),
        (8.0,-15.206142551017155),
        (19.9,-87.69151173682802),
        (20.1,-89.43301119620371),
        (38.5,-323.8513410684794),
        (100.0,-2173.8715428690343),
        (215.0,-10040.362750777724),
        (1000.0,-217150.6400419944),
        (1000000.0,-217147240958.025),
    ];
    /// k, λ, bound: `min(0, k*log10(lam) - loggamma(k+1)/log(10))`.
    #[rustfmt::skip]
    const FACTORIAL: [(u64, f64, f64); 7] = [
        (1,0.5,-0.3010299956639812),
        (5,1.0,-2.0791812460476247),
        (10,2.5,-2.5803629461564177),
        (4061,32.0,-6780.778032693615),
        (100,36.0,-2.3397535779870617),
        (1000000,10.0,-4565708.917186718),
        (3,100.0,0.0),
    ];
    /// k, n, confidence, low, high: `scipy.stats.beta.ppf((1-c)/2, k, n-k+1)` and `beta.isf((1-c)/2, k+1, n-k)`.
    #[rustfmt::skip]
    const INTERVALS: [(u64, u64, f64, f64, f64); 7] = [
        (0,88,0.95,0.0,0.04105262905807801),
        (0,10,0.99,0.0,0.4112959813475253),
        (3,88,0.95,0.00708630833762399,0.09640956259200284),
        (12,12,0.95,0.7353515306029488,1.0),
        (50,100,0.9,0.41362171463091174,0.5863782853690882),
        (1,1000000,0.95,2.53178076637942e-08,5.571630655166939e-06),
        (999,1000,0.95,0.9944410757201734,0.9999746825125088),
    ];

    /// Holds log10 p to its golden value with a relative error of 1e-9.
    #[track_caller]
    fn assert_close(found: f64, golden: f64, what: &str) {
        let error = (found - golden).abs() / golden.abs().max(f64::MIN_POSITIVE);
        assert!(
            found == golden || error < 1e-9,
            "{what}: found {found:e}, golden {golden:e}, relative error {error:e}"
        );
    }

    #[test]
    fn student_agrees_with_mpmath() {
        for (t, df, golden) in STUDENT {
            assert_close(log10_student_t_sf(t, df), golden, &format!("t {t}, df {df}"));
        }
    }

    #[test]
    fn correlation_agrees_with_mpmath() {
        for (r, n, golden) in CORRELATION {
            assert_close(log10_correlation_sf(r, n), golden, &format!("r {r}, n {n}"));
        }
    }

    #[test]
    fn binomial_agrees_with_mpmath() {
        for (k, n, p, golden) in BINOMIAL {
            assert_close(log10_binomial_sf(k, n, p), golden, &format!("k {k}, n {n}, p {p}"));
        }
    }

    #[test]
    fn normal_agrees_with_mpmath() {
        for (z, golden) in NORMAL {
            assert_close(log10_normal_sf(z), golden, &format!("z {z}"));
        }
    }

    #[test]
    fn factorial_bound_agrees_with_mpmath() {
        for (k, lambda, golden) in FACTORIAL {
            assert_close(log10_poisson_like_factorial_bound(k, lambda), golden, &format!("k {k}, lambda {lambda}"));
        }
    }

    #[test]
    fn clopper_pearson_agrees_with_scipy() {
        for (k, n, confidence, low, high) in INTERVALS {
            let found = clopper_pearson(k, n, confidence);
            assert!((found.0 - low).abs() < 1e-9 * low.max(1e-3), "{k} of {n}: {found:?}");
            assert!((found.1 - high).abs() < 1e-9 * high, "{k} of {n}: {found:?}");
        }
        assert_eq!(clopper_pearson(0, 0, 0.95), (0.0, 1.0));
        assert_eq!(clopper_pearson(3, 2, 0.95), (0.0, 1.0));
    }

    #[test]
    fn a_perfect_correlation_is_no_more_certain_than_all_permutations() {
        assert_close(log10_correlation_sf(1.0, 4), -(24_f64.log10()), "r 1, n 4");
        assert_eq!(log10_correlation_sf(1.0, 4096), log10_correlation_sf(1.0 - f64::EPSILON, 4096));
        assert_eq!(log10_correlation_sf(-1.0, 4096), 0.0);
        assert_eq!(log10_correlation_sf(1.0, 3), 0.0);
    }

    #[test]
    fn binomial_tails_agree_with_plain_summation() {
        for n in 1..40_u64 {
            for p in [0.001, 0.2, 0.5, 0.9] {
                let terms: Vec<f64> = (0..=n)
                    .scan(1.0, |choose, k| {
                        let term = *choose * f64::powi(p, k as i32) * f64::powi(1.0 - p, (n - k) as i32);
                        *choose *= (n - k) as f64 / (k + 1) as f64;
                        Some(term)
                    })
                    .collect();
                for k in 0..=n {
                    let sum: f64 = terms[k as usize..].iter().rev().sum();
                    let found = log10_binomial_sf(k, n, p);
                    assert!((found - sum.log10()).abs() < 1e-11 * found.abs().max(1.0), "{k} of {n} at {p}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_evidence() {
        let nan = f64::NAN;
        let found = [
            log10_student_t_sf(nan, 5.0),
            log10_student_t_sf(5.0, nan),
            log10_student_t_sf(5.0, 0.0),
            log10_correlation_sf(nan, 100),
            log10_binomial_sf(5, 10, nan),
            log10_normal_sf(nan),
            log10_poisson_like_factorial_bound(5, nan),
            log10_corrected(nan, 5),
        ];
        assert_eq!(found, [0.0; 8]);
    }

    #[test]
    fn many_degrees_of_freedom_come_near_the_normal_tail_or_say_nothing() {
        assert_eq!(log10_student_t_sf(3.0, f64::INFINITY), log10_normal_sf(3.0));
        for df in [1e7, 1e9, 1e12, 1e15, 1e18, 1e100, f64::MAX] {
            for t in [-3.0, 1e-6, 3.0] {
                let (found, normal) = (log10_student_t_sf(t, df), log10_normal_sf(t));
                assert!(found == 0.0 || (found / normal - 1.0).abs() < 1e-5, "t {t}, df {df:e}: {found}");
            }
        }
    }

    #[test]
    fn every_result_is_finite_and_at_most_zero() {
        let extremes = [f64::NEG_INFINITY, f64::MIN, -1.0, 0.0, f64::MIN_POSITIVE, 0.5, 1.0, f64::MAX, f64::INFINITY];
        for v in extremes {
            for n in [0, 1, 4, 1000, u64::MAX] {
                let found = [
                    log10_student_t_sf(v, n.min(1 << 20) as f64),
                    log10_student_t_sf(3.0, v),
                    log10_correlation_sf(v, n),
                    log10_binomial_sf(n.min(1 << 20) / 2, n.min(1 << 20), v),
                    log10_normal_sf(v),
                    log10_poisson_like_factorial_bound(n, v),
                    log10_corrected(v, n),
                ];
                assert!(found.iter().all(|p| p.is_finite() && *p <= 0.0), "{v:e} {n}: {found:?}");
            }
        }
    }

    #[test]
    fn tails_fall_as_the_statistic_grows() {
        for df in [1.0, 2.0, 9.0, 100.0, 4094.0] {
            let tails: Vec<f64> = (-200..400).map(|i| log10_student_t_sf(f64::from(i) * 0.25, df)).collect();
            assert!(tails.windows(2).all(|pair| pair[1] < pair[0] || pair[0] > -1e-15), "df {df}");
        }
        let tails: Vec<f64> = (0..=500).map(|k| log10_binomial_sf(k, 500, 0.3)).collect();
        assert!(tails.windows(2).all(|pair| pair[1] < pair[0] || pair[0] > -1e-15));
        let tails: Vec<f64> = (-80..400).map(|i| log10_normal_sf(f64::from(i) * 0.1)).collect();
        assert!(tails.windows(2).all(|pair| pair[1] < pair[0]));
    }

    #[test]
    fn corrections_stop_at_certainty() {
        assert_eq!(log10_corrected(-10_000.0, 1000), -9997.0);
        assert_eq!(log10_corrected(-2.0, 1000), 0.0);
        assert_eq!(log10_corrected(-2.0, 0), -2.0);
    }
}
