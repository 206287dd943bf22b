//! Spans of time as people write and read them.

use std::time::Duration;

use crate::number::{Decimal, NumberError};

/// Units of time, largest first, and their milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Why a text is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// No text.
    #[error("the duration is empty")]
    Empty,
    /// A minus sign.
    #[error("a duration cannot be negative")]
    Negative,
    /// It does not begin with a number, or the number is malformed.
    #[error("not a duration")]
    NotANumber,
    /// A bare number.
    #[error("the duration lacks its unit")]
    NoUnit,
    /// The unit is none of ours.
    #[error("unknown unit of time `{unit}`")]
    UnknownUnit {
        /// What stands behind the number.
        unit: String,
    },
    /// Not a whole number of milliseconds.
    #[error("durations are whole milliseconds")]
    TooPrecise,
    /// More milliseconds than a `u64` holds.
    #[error("the duration is too long")]
    TooLarge,
}

/// Reads a duration such as `250ms`, `1.5s`, `30m` or `1h`.
///
/// # Errors
/// The text is no number with a unit of time, is negative, too long, or finer than a millisecond.
pub fn parse_duration(text: &str) -> Result<Duration, SpanError> {
    let (number, unit) = Decimal::split(text).map_err(|error| match error {
        NumberError::Empty => SpanError::Empty,
        NumberError::Negative => SpanError::Negative,
        NumberError::NotANumber => SpanError::NotANumber,
        NumberError::TooLarge => SpanError::TooLarge,
        NumberError::TooPrecise => SpanError::TooPrecise,
    })?;
    if unit.is_empty() {
        return Err(SpanError::NoUnit);
    }
    let Some((_, milliseconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(SpanError::UnknownUnit {
            unit: unit.chars().take(20).collect(),
        });
    };
    if !number.is_whole_times(*milliseconds) {
        return Err(SpanError::TooPrecise);
    }
    number
        .times(*milliseconds)
        .map(Duration::from_millis)
        .ok_or(SpanError::TooLarge)
}

/// Writes whole milliseconds in the largest unit that divides them, as [`parse_duration`] reads it.
pub(crate) fn write_milliseconds(milliseconds: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, size)| milliseconds >= *size && milliseconds.is_multiple_of(*size));
    unit.map_or_else(
        || format!("{milliseconds}ms"),
        |(name, size)| format!("{}{name}", milliseconds / size),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("1.5s", 1500),
            ("30 s", 30_000),
            ("2m", 120_000),
            ("0.5h", 1_800_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for (text, error) in [
            ("", SpanError::Empty),
            ("-1s", SpanError::Negative),
            ("soon", SpanError::NotANumber),
            ("250", SpanError::NoUnit),
            ("0.5ms", SpanError::TooPrecise),
            (
                "1m30s",
                SpanError::UnknownUnit {
                    unit: "m30s".to_owned(),
                },
            ),
            ("99999999999999999999h", SpanError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(shift in 0_u32..64, random: u64) {
            let milliseconds = random >> shift;
            let written = write_milliseconds(milliseconds);
            prop_assert_eq!(parse_duration(&written), Ok(Duration::from_millis(milliseconds)));
        }
    }
}
