//! Decimal numbers with a unit, the shape that sizes and durations share; exact, without floating point.

/// More digits than any size or duration needs, and few enough that no product below overflows unnoticed.
const MAX_DIGITS: usize = 20;
/// Digits allowed behind the point.
const MAX_FRACTION: usize = 9;

/// A non-negative decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    scaled: u128,
    scale: u128,
}

/// Why a text does not begin with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    Empty,
    Negative,
    NotANumber,
    TooLarge,
    TooPrecise,
}

impl Decimal {
    /// Splits `text` into its number and what follows it, blanks between them dropped.
    pub(crate) fn split(text: &str) -> Result<(Self, &str), NumberError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NumberError::Empty);
        }
        if let Some(rest) = text.strip_prefix(['-', '\u{2212}']) {
            let negative = rest.trim_start().starts_with(|c: char| c.is_ascii_digit());
            return Err(if negative {
                NumberError::Negative
            } else {
                NumberError::NotANumber
            });
        }
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(NumberError::NotANumber);
        }
        let whole = whole.trim_start_matches('0');
        if whole.len() > MAX_DIGITS {
            return Err(NumberError::TooLarge);
        }
        if fraction.len() > MAX_FRACTION {
            return Err(NumberError::TooPrecise);
        }
        let mut scaled = 0_u128;
        let mut scale = 1_u128;
        for digit in whole.bytes() {
            scaled = scaled * 10 + u128::from(digit - b'0');
        }
        for digit in fraction.bytes() {
            scaled = scaled * 10 + u128::from(digit - b'0');
            scale *= 10;
        }
        Ok((Self { scaled, scale }, unit.trim_start()))
    }

    /// The number times `unit`, rounded down; `None` if that is more than a `u64` holds.
    pub(crate) fn times(self, unit: u64) -> Option<u64> {
        let product = self.scaled.checked_mul(u128::from(unit))?;
        u64::try_from(product.checked_div(self.scale)?).ok()
    }

    /// Whether the number times `unit` is a whole one.
    pub(crate) fn is_whole_times(self, unit: u64) -> bool {
        self.scaled
            .checked_mul(u128::from(unit))
            .and_then(|product| product.checked_rem(self.scale))
            == Some(0)
    }
}
