//! The query of a request's URI, read as the API server reads it: Go's `net/url.ParseQuery`, keys in their exact case.
//!
//! `fieldManager=x%26dryRun%3DAll` is no dry run, and `dry%52un=All` is one.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What of a query matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// It asks for a dry run.
    pub(super) dry_run: bool,
    /// It asks for a deletion without grace.
    pub(super) no_grace: bool,
    /// It may leave some pods of a collection out.
    pub(super) selects: bool,
}

impl Query {
    pub(super) fn of(uri: &str) -> Self {
        let mut query = Self::default();
        let Some((_, text)) = uri.split_once('?') else {
            return query;
        };
        for (key, value) in text.split('&').filter_map(pair) {
            match &*key {
                // The only other value, the empty one, is refused; and what is refused never comes here.
                "dryRun" => query.dry_run = true,
                "gracePeriodSeconds" => query.no_grace = value == "0",
                "labelSelector"
                | "fieldSelector"
                | "limit"
                | "continue"
                | "resourceVersion"
                | "resourceVersionMatch" => query.selects |= !value.is_empty(),
                _ => {}
            }
        }
        query
    }
}

/// Key and value, decoded; nothing for what Go drops: pairs with a semicolon or a broken percent sign in them.
fn pair(text: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    if text.contains(';') {
        return None;
    }
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Some((decoded(key)?, decoded(value)?))
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let mut parts = text.split('%');
    let _before_the_first = parts.next();
    let is_hex = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !parts.all(is_hex) {
        return None;
    }
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    Some(Cow::Owned(
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    //! Queries as clients send them, and as they might to be misread.

    use super::Query;

    #[test]
    fn a_dry_run_is_known_by_its_key() {
        for uri in [
            "/api/v1/namespaces/a/pods/b?dryRun=All",
            "/api/v1/namespaces/a/pods/b?fieldManager=x&dryRun=All",
            "/x?dry%52un=All",
            "/x?dryRun",
            "/x?dryRun=",
            "/x?a=%zz&dryRun=All",
        ] {
            assert!(Query::of(uri).dry_run, "{uri}");
        }
        for uri in [
            "/api/v1/namespaces/a/pods/b",
            "/x?fieldManager=x%26dryRun%3DAll",
            "/x?fieldManager=dryRun=All",
            "/x?dryrun=All",
            "/dryRun=All",
            "/x?a;dryRun=All",
            "/x?dryRun=%zz",
            "/x?dry%2552un=All",
        ] {
            assert!(!Query::of(uri).dry_run, "{uri}");
        }
    }

    #[test]
    fn selectors_and_grace_are_read() {
        let query = Query::of("/x?gracePeriodSeconds=0&labelSelector=app%3Dcoll0");
        assert!(query.no_grace && query.selects);
        let query = Query::of("/x?gracePeriodSeconds=30&labelSelector=");
        assert!(!query.no_grace && !query.selects);
    }
}
