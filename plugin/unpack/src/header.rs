//! Headers of a tar, as Go's `archive/tar` reads them, which containerd extracts with: ustar, PAX and GNU.

/// A tar is made of blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;

/// What a header block says, as far as sizes depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    /// Bytes that follow, before padding and before any correction by a PAX header.
    pub(crate) size: u64,
    /// Of an old GNU sparse file: what it is with its holes.
    pub(crate) expanded: Option<u64>,
    /// Of such a file: another block of its map follows.
    pub(crate) continues: bool,
    /// Name, with the prefix before it.
    pub(crate) name: Vec<u8>,
}

/// What a PAX header says about the entry that follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) size: Option<u64>,
    pub(crate) path: Option<Vec<u8>>,
    /// A sparse file's length with its holes.
    pub(crate) expanded: Option<u64>,
}

impl Header {
    /// `None` if it is no header: Go stops there with an error.
    pub(crate) fn parse(block: &[u8]) -> Option<Self> {
        if !has_right_sum(block)? {
            return None;
        }
        let kind = *block.get(156)?;
        let is_gnu = block.get(257..265)? == b"ustar  \0";
        let is_sparse = kind == b'S' && is_gnu;
        let mut name = Vec::new();
        if !is_gnu && block.get(257..262)? == b"ustar" {
            name.extend_from_slice(until_zero(block.get(345..500)?));
            if !name.is_empty() {
                name.push(b'/');
            }
        }
        name.extend_from_slice(until_zero(block.get(..100)?));
        Some(Self {
            kind,
            size: number(block.get(124..136)?)?,
            expanded: if is_sparse {
                Some(number(block.get(483..495)?)?)
            } else {
                None
            },
            continues: is_sparse && *block.get(482)? > 0,
            name,
        })
    }

    /// Whether Go takes no data for an entry of this kind, whatever size stands there.
    pub(crate) fn has_no_data(kind: u8) -> bool {
        matches!(kind, b'1'..=b'6')
    }
}

impl Pax {
    /// `None` if it is malformed: Go stops there with an error.
    pub(crate) fn parse(mut body: &[u8]) -> Option<Self> {
        let mut pax = Self::default();
        while !body.is_empty() {
            let space = body.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(body.get(..space)?).ok()?.parse().ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
            body = body.get(length..)?;
            match key {
                b"path" => pax.path = Some(value.to_vec()).filter(|path| !path.is_empty()),
                b"size" => pax.size = decimal(value)?,
                // Both are taken, whichever of them Go will take: the larger one counts.
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    pax.expanded = decimal(value)?.max(pax.expanded)
                }
                _ => {}
            }
        }
        Some(pax)
    }
}

/// Nothing is no number, and no mistake: what stood in the header counts.
fn decimal(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() {
        return Some(None);
    }
    let number: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    u64::try_from(number).ok().map(Some)
}

/// The sum of all bytes, its own field taken as spaces; some programs took bytes as signed.
fn has_right_sum(block: &[u8]) -> Option<bool> {
    let expected = i64::try_from(number(block.get(148..156)?)?).ok()?;
    let (mut unsigned, mut signed) = (0, 0);
    for (place, byte) in (0..).zip(block) {
        let byte = if (148..156).contains(&place) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    Some(expected == unsigned || expected == signed)
}

/// Octal digits, or GNU's base 256; never negative, and at most what Go's `int64` holds.
fn number(field: &[u8]) -> Option<u64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        let text = trim(field);
        // Go reads the digits up to a zero.
        let text = until_zero(text);
        if text.is_empty() {
            return Some(0);
        }
        if !text.iter().all(|digit| matches!(digit, b'0'..=b'7')) {
            return None;
        }
        return u64::from_str_radix(std::str::from_utf8(text).ok()?, 8)
            .ok()
            .filter(|number| i64::try_from(*number).is_ok());
    }
    if first & 0x40 != 0 {
        return None;
    }
    let mut number: u64 = u64::from(first & 0x3f);
    for byte in field.get(1..)? {
        if number >> 55 != 0 {
            return None;
        }
        number = number << 8 | u64::from(*byte);
    }
    Some(number)
}

fn trim(field: &[u8]) -> &[u8] {
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !is_filler(byte))
        .unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|byte| !is_filler(byte))
        .map_or(start, |last| last + 1);
    field.get(start..end).unwrap_or_default()
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
