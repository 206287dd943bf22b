//! Sizes in bytes as people write and read them.

use crate::number::{Decimal, NumberError};

/// Units that a size may have, and their bytes.
const UNITS: [(&str, u64); 13] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("PB", 1_000_000_000_000_000),
    ("PiB", 1 << 50),
    ("EB", 1_000_000_000_000_000_000),
    ("EiB", 1 << 60),
];

/// Units that [`human_bytes`] writes, largest first.
const WRITTEN: [(&str, u64); 6] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No text.
    #[error("the size is empty")]
    Empty,
    /// A minus sign.
    #[error("a size cannot be negative")]
    Negative,
    /// It does not begin with a number, or the number is malformed.
    #[error("not a size")]
    NotANumber,
    /// The unit is none of ours.
    #[error("unknown unit of size `{unit}`")]
    UnknownUnit {
        /// What stands behind the number.
        unit: String,
        /// The unit that was probably meant.
        meant: Option<&'static str>,
    },
    /// 2^64 bytes or more.
    #[error("the size is larger than 2^64 - 1 bytes")]
    TooLarge,
    /// More than nine digits behind the point.
    #[error("the size has more than nine digits behind its point")]
    TooPrecise,
}

impl SizeError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownUnit { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Self::TooLarge => "write `none` where there is to be no limit".to_owned(),
            Self::Empty
            | Self::Negative
            | Self::NotANumber
            | Self::UnknownUnit { meant: None, .. }
            | Self::TooPrecise => {
                "write a number with a unit, such as `1.5GiB`; units are B, KB, KiB, MB, MiB, GB, GiB, TB, TiB"
                    .to_owned()
            }
        }
    }
}

/// Reads a size such as `10GiB`, `1.5 MB` or `4096` (bytes), rounded down to whole bytes.
///
/// # Errors
/// The text is no number with a unit of size, is negative, or does not fit into a `u64`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (number, unit) = Decimal::split(text).map_err(|error| match error {
        NumberError::Empty => SizeError::Empty,
        NumberError::Negative => SizeError::Negative,
        NumberError::NotANumber => SizeError::NotANumber,
        NumberError::TooLarge => SizeError::TooLarge,
        NumberError::TooPrecise => SizeError::TooPrecise,
    })?;
    let bytes = match unit {
        "" => 1,
        _ => UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| unknown(unit))?,
    };
    number.times(bytes).ok_or(SizeError::TooLarge)
}

fn unknown(unit: &str) -> SizeError {
    let meant = UNITS
        .iter()
        .map(|(name, _)| *name)
        .find(|name| name.eq_ignore_ascii_case(unit))
        // `Mi` is how Kubernetes writes it, `M` how many tools do; both are powers of two more often than not.
        .or_else(|| {
            let letter = unit.strip_suffix(['i', 'I']).unwrap_or(unit);
            let binary = format!("{letter}iB");
            UNITS
                .iter()
                .map(|(name, _)| *name)
                .find(|name| name.eq_ignore_ascii_case(&binary))
        });
    SizeError::UnknownUnit {
        unit: unit.chars().take(20).collect(),
        meant,
    }
}

/// Writes a size in the largest unit of two that keeps it above one, with one digit behind the point unless
/// that is zero: `1 GiB`, `1.4 MiB`, `512 B`. [`parse_size`] reads it back, rounded.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let mut larger: Option<(&str, u128)> = None;
    for (name, unit) in WRITTEN {
        let unit = u128::from(unit);
        if u128::from(bytes) >= unit {
            let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
            return match larger {
                Some((name, larger)) if tenths * unit >= larger * 10 => format!("1 {name}"),
                Some(_) => write_tenths(tenths, name),
                // 16 EiB would be more than `parse_size` takes.
                None => write_tenths(tenths.min(159), name),
            };
        }
        larger = Some((name, unit));
    }
    format!("{bytes} B")
}

fn write_tenths(tenths: u128, unit: &str) -> String {
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("0B", 0),
            ("12 B", 12),
            ("1KB", 1000),
            ("1KiB", 1024),
            ("1.5MiB", 1_572_864),
            (" 10GiB ", 10 << 30),
            ("2TB", 2_000_000_000_000),
            ("0.5TiB", 1 << 39),
            ("0.0001KiB", 0),
            ("18446744073709551615", u64::MAX),
            ("000000000000000000000000001GB", 1_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        let unknown = |unit: &str, meant| {
            Err(SizeError::UnknownUnit {
                unit: unit.to_owned(),
                meant,
            })
        };
        for (text, error) in [
            ("", Err(SizeError::Empty)),
            ("-1GiB", Err(SizeError::Negative)),
            ("- 1", Err(SizeError::Negative)),
            ("-", Err(SizeError::NotANumber)),
            ("GiB", Err(SizeError::NotANumber)),
            (".5GiB", Err(SizeError::NotANumber)),
            ("1.", Err(SizeError::NotANumber)),
            ("1.2.3", Err(SizeError::NotANumber)),
            ("10Gi", unknown("Gi", Some("GiB"))),
            ("10G", unknown("G", Some("GiB"))),
            ("10gb", unknown("gb", Some("GB"))),
            ("1e9", unknown("e9", None)),
            ("1_000", unknown("_000", None)),
            ("18446744073709551616", Err(SizeError::TooLarge)),
            ("16EiB", Err(SizeError::TooLarge)),
            (
                "99999999999999999999999999999999999999999999",
                Err(SizeError::TooLarge),
            ),
            ("1.0000000001GiB", Err(SizeError::TooPrecise)),
        ] {
            assert_eq!(parse_size(text), error, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1_468_006, "1.4 MiB"),
            (1 << 30, "1 GiB"),
            ((1 << 30) - 1, "1 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            (1_048_524, "1023.9 KiB"),
            (12 << 30, "12 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(shift in 0_u32..64, random: u64) {
            let bytes = random >> shift;
            let written = human_bytes(bytes);
            let read = parse_size(&written).unwrap();
            prop_assert!(read.abs_diff(bytes) <= bytes / 10, "{bytes} {written} {read}");
            prop_assert_eq!(human_bytes(read), written);
        }

        #[test]
        fn whole_units_read_back_exactly(count in 0_u64..1 << 20, unit in 0_usize..9) {
            let (name, bytes) = UNITS[unit];
            prop_assert_eq!(parse_size(&format!("{count}{name}")), Ok(count * bytes));
            prop_assert_eq!(parse_size(&format!("{count} {name}")), Ok(count * bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[0-9.]{0,60}[KMGTiB]{0,3}") {
            let _ = parse_size(&text);
        }
    }
}
