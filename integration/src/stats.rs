//! Samples and what they come to.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a series of samples comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// By nearest rank; with fewer than 20 samples that is the largest.
    pub p95: f64,
    /// The same; with fewer than 100 samples it is the largest.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// Sums up samples; all zero if there are none.
pub fn summary(samples: impl IntoIterator<Item = f64>) -> Summary {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let last = count.saturating_sub(1);
    let rank = |percent: usize| at((count * percent).div_ceil(100).saturating_sub(1));
    Summary {
        count,
        min: at(0),
        median: (at(last / 2) + at(count / 2)) / 2.0,
        p95: rank(95),
        p99: rank(99),
        max: at(last),
    }
}

/// The value in the middle.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    summary(samples).median
}

/// Writes what was found to a file, with its folder.
pub fn write(path: &Path, found: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(found).context("encode what was found")?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{median, summary};

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn one_outlier_in_twenty_is_above_the_95th_percentile() {
        let found = summary((1..20).map(f64::from).chain([1000.0]));
        assert_eq!(
            (found.p95, found.p99, found.max, found.min, found.count),
            (19.0, 1000.0, 1000.0, 1.0, 20)
        );
    }
}
