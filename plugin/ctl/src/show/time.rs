//! Spans of time, short.

use std::time::Duration;

/// Two units at most: `8s`, `4m10s`, `3h5m`, `2d7h`.
pub(crate) fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (_, _, 0) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3599, "59m59s"),
            (3600, "1h0m"),
            (86_399, "23h59m"),
            (90_000, "1d1h"),
            (u64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
