//! Who asked for a pull, in a column and in words.

use magi_engine::owner::Owner;
use magi_engine::report::PullReport;

use super::escape;

/// For a column: the pod; `-` where the request named none, `?` where it is not known whose the pull is.
pub(crate) fn short(pull: &PullReport) -> String {
    match pull.owner.as_ref().map(|owner| &owner.pod) {
        Some(Some(pod)) => escape::name(&pod.to_string()),
        Some(None) => "-".to_owned(),
        None => "?".to_owned(),
    }
}

/// For lines below the pull: all that is known, or all that it may be.
pub(crate) fn long(pull: &PullReport) -> Vec<String> {
    match (&pull.owner, pull.owner_candidates.as_slice()) {
        (Some(owner), _) => vec![format!("owner {}{}", asks(owner), proof(owner))],
        (None, []) => vec!["owner ?".to_owned()],
        (None, candidates) => {
            let texts: Vec<_> = candidates.iter().map(asks).collect();
            vec![format!("owner ? {}", texts.join(" or "))]
        }
    }
}

fn asks(owner: &Owner) -> String {
    let image = escape::name(owner.image.as_str());
    owner.pod.as_ref().map_or_else(
        || format!("- (no pod was named) asks for {image}"),
        |pod| {
            format!(
                "{} (uid {}) asks for {image}",
                escape::name(&pod.to_string()),
                escape::name(pod.uid.as_str())
            )
        },
    )
}

fn proof(owner: &Owner) -> String {
    let sources: Vec<_> = owner.proof.iter().map(ToString::to_string).collect();
    if sources.is_empty() {
        String::new()
    } else {
        format!(", proven by {}", sources.join(" and "))
    }
}
