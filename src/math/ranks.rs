//! Ranks, normal scores and correlations.

/// Mid-ranks of `values`, 1-based: equal values share the mean of the ranks they span. NaN ranks above everything.
///
/// The mid-rank keeps the sum of ranks at `n(n+1)/2` whatever the ties, as Spearman's coefficient demands (Kendall,
/// *Rank Correlation Methods*, ch. 3).
pub fn mid_ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| {
        let (x, y) = (values[a as usize], values[b as usize]);
        x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(&b))
    });
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start] as usize];
        let tied = order[start..].iter().take_while(|&&i| values[i as usize] == value).count().max(1);
        let rank = start as f64 + (tied as f64 + 1.0) / 2.0;
        for &i in &order[start..start + tied] {
            ranks[i as usize] = rank;
        }
        start += tied;
    }
    ranks
}

/// Normal scores by Blom's formula, `Φ⁻¹((rank − 3/8) / (n + 1/4))`: what ranks look like once they are given the
/// shape of a normal sample.
///
/// Correlating normal scores instead of ranks costs nothing in robustness and makes the t tail of the permutation
/// distribution hold far out, because its excess kurtosis, the product of the two samples' own over `n`, is then close
/// to zero (Blom, *Statistical Estimates and Transformed Beta-Variables*, 1958).
pub fn normal_scores(values: &[f32]) -> Vec<f64> {
    let n = values.len() as f64;
    mid_ranks(values).into_iter().map(|rank| normal_quantile((rank - 0.375) / (n + 0.25))).collect()
}

/// Pearson's correlation; 0 where either side is constant or the lengths differ.
pub fn correlation(x: &[f64], y: &[f64]) -> f64 {
    if x.len() != y.len() || x.is_empty() {
        return 0.0;
    }
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        let (a, b) = (a - mean_x, b - mean_y);
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    if xx <= 0.0 || yy <= 0.0 { 0.0 } else { (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0) }
}

/// The standard normal quantile function, `Φ⁻¹(p)` for `0 < p < 1`.
///
/// Algorithm AS 241, PPND16 (Wichura, *Applied Statistics* 37, 1988): relative error about 10⁻¹⁶.
pub fn normal_quantile(p: f64) -> f64 {
    const NEAR: ([f64; 8], [f64; 7]) = (
        [
            3.387_132_872_796_366_5,
            133.141_667_891_784_38,
            1_971.590_950_306_551_3,
            13_731.693_765_509_46,
            45_921.953_931_549_87,
            67_265.770_927_008_7,
            33_430.575_583_588_13,
            2_509.080_928_730_122_7,
        ],
        [
            42.313_330_701_600_91,
            687.187_007_492_057_9,
            5_394.196_021_424_751,
            21_213.794_301_586_597,
            39_307.895_800_092_71,
            28_729.085_735_721_943,
            5_226.495_278_852_545,
        ],
    );
    const MIDDLE: ([f64; 8], [f64; 7]) = (
        [
            1.423_437_110_749_683_5,
            4.630_337_846_156_546,
            5.769_497_221_460_691,
            3.647_848_324_763_204_5,
            1.270_458_252_452_368_4,
            0.241_780_725_177_450_6,
            0.022_723_844_989_269_184,
            7.745_450_142_783_414e-4,
        ],
        [
            2.053_191_626_637_759,
            1.676_384_830_183_803_8,
            0.689_767_334_985_1,
            0.148_103_976_427_480_08,
            0.015_198_666_563_616_457,
            5.475_938_084_995_345e-4,
            1.050_750_071_644_416_9e-9,
        ],
    );
    const FAR: ([f64; 8], [f64; 7]) = (
        [
            6.657_904_643_501_103,
            5.463_784_911_164_114,
            1.784_826_539_917_291_3,
            0.296_560_571_828_504_87,
            0.026_532_189_526_576_124,
            0.001_242_660_947_388_078_4,
            2.711_555_568_743_487_6e-5,
            2.010_334_399_292_288_1e-7,
        ],
        [
            0.599_832_206_555_888,
            0.136_929_880_922_735_8,
            0.014_875_361_290_850_615,
            7.868_691_311_456_133e-4,
            1.846_318_317_510_054_7e-5,
            1.421_511_758_316_446e-7,
            2.044_263_103_389_939_8e-15,
        ],
    );
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c);
    let ratio = |(top, bottom): &([f64; 8], [f64; 7]), x: f64| horner(top, x) / (1.0 + x * horner(bottom, x));
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&NEAR, 0.180_625 - q * q);
    }
    let r = (-(if q < 0.0 { p } else { 1.0 - p }).ln()).sqrt();
    let magnitude = if r <= 5.0 { ratio(&MIDDLE, r - 1.6) } else { ratio(&FAR, r - 5.0) };
    magnitude.copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_rank_and_nan_ranks_last() {
        assert_eq!(mid_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(mid_ranks(&[f32::NAN, 1.0]), [2.0, 1.0]);
        assert!(mid_ranks(&[]).is_empty());
    }

    #[test]
    fn normal_quantiles_match_mpmath() {
        // mpmath.mp.dps = 40; mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)
        for (p, expected) in [
            (0.5, 0.0),
            (0.025, -1.959_963_984_540_054_2),
            (0.9, 1.281_551_565_544_600_4),
            (1e-10, -6.361_340_902_404_057),
            (0.999_999, 4.753_424_308_822_899),
        ] {
            assert!((normal_quantile(p) - expected).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }

    #[test]
    fn correlation_is_bounded_and_zero_for_constants() {
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), 1.0);
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        assert_eq!(correlation(&[1.0], &[1.0, 2.0]), 0.0);
    }
}
