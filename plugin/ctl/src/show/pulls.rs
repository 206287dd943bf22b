//! The table of pulls.

use std::net::SocketAddr;

use anstyle::Style;
use magi_config::human_bytes;
use magi_engine::Time;
use magi_engine::evidence::TieMethod;
use magi_engine::ids::SocketName;
use magi_engine::policy::Mode;
use magi_engine::report::{LayerReport, PullReport, Report, Stage, VerdictReport};

use super::table::{Cell, Fill, line, natural_widths, paint, total, wrap};
use super::{escape, owner, time};
use crate::terminal::{BAD, BOLD, BUSY, DIM, GOOD, PLAIN, Room, WARN};

const HEADER: [&str; 10] = [
    "ID", "IMAGE", "STAGE", "DECLARED", "STORED", "%", "SOCKETS", "AGE", "OWNER", "VERDICT",
];
const FILLS: [Fill; 10] = [
    Fill::Left,
    Fill::LeftKeepEnd,
    Fill::Left,
    Fill::Right,
    Fill::Right,
    Fill::Right,
    Fill::Right,
    Fill::Right,
    Fill::Left,
    Fill::Left,
];
const IMAGE: usize = 1;

/// With less room for the image than this, verdicts move to lines of their own, and then owners too.
const IMAGE_WANTS: usize = 24;

/// Less of an image's name says nothing.
const IMAGE_NEEDS: usize = 8;

const LAYER_HEADER: [&str; 6] = ["LAYER", "DECLARED", "RECEIVED", "%", "SOCKET", "TIED BY"];
const LAYER_FILLS: [Fill; 6] = [
    Fill::Left,
    Fill::Right,
    Fill::Right,
    Fill::Right,
    Fill::Left,
    Fill::Left,
];

/// The layers' columns from here on may move below.
const LAYER_SOCKET: usize = 4;

/// Hexadecimal digits that tell digests apart for people.
const DIGEST_DIGITS: usize = 12;

/// What stands under a pull begins here.
const INDENT: usize = 4;

/// The report as lines that fit into the room's columns.
pub(crate) fn pulls(now: Time, report: &Report, layers: bool, room: Room) -> Vec<String> {
    let all: Vec<&PullReport> = report.pulls.iter().chain(&report.ended).collect();
    if all.is_empty() {
        return vec!["No pull is in flight.".to_owned()];
    }
    let mut rows = vec![HEADER.map(|title| Cell::new(title, BOLD)).to_vec()];
    rows.extend(all.iter().map(|pull| row(now, pull)));
    let mut widths = natural_widths(&rows);
    let below = fit(&mut widths, room);

    let mut out = Vec::new();
    let mut rows = rows.into_iter().map(|mut row| {
        row.truncate(widths.len());
        line(&row, &FILLS, &widths)
    });
    out.extend(rows.next());
    for (pull, row) in all.into_iter().zip(rows) {
        out.push(row);
        if layers {
            out.extend(details(pull, room));
            continue;
        }
        if below.owners && pull.owner.as_ref().is_some_and(|owner| owner.pod.is_some()) {
            out.extend(note(&format!("for {}", owner::short(pull)), PLAIN, room));
        }
        if let Some(verdict) = pull.verdict.as_ref().filter(|_| below.verdicts) {
            let (text, style) = verdict_text(verdict);
            out.extend(note(&text, style, room));
        }
    }
    out
}

/// What has no column of its own, for want of room.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    owners: bool,
    verdicts: bool,
}

/// Shrinks the image's column to the room; which others had to go.
fn fit(widths: &mut Vec<usize>, room: Room) -> Below {
    let mut below = Below::default();
    let Some(columns) = room.columns else { return below };
    let missing = |widths: &[usize]| total(widths).saturating_sub(columns);
    let image = widths.get(IMAGE).copied().unwrap_or(0);
    let too_small = |widths: &[usize]| image.saturating_sub(missing(widths)) < image.min(IMAGE_WANTS);
    if too_small(widths) {
        widths.pop();
        below.verdicts = true;
    }
    if too_small(widths) {
        widths.pop();
        below.owners = true;
    }
    let image = image.saturating_sub(missing(widths)).max(image.min(IMAGE_NEEDS));
    if let Some(width) = widths.get_mut(IMAGE) {
        *width = image;
    }
    // A room too small even so loses columns at the right.
    while total(widths) > columns && widths.len() > IMAGE + 1 {
        widths.pop();
    }
    below
}

fn row(now: Time, pull: &PullReport) -> Vec<Cell> {
    let base = if pull.stage == Stage::Ended { DIM } else { PLAIN };
    let (stage, stage_style) = stage(pull.stage);
    let sockets = pull.layers.iter().filter(|layer| layer.socket.is_some()).count();
    let stopped = pull
        .unpack_stop
        .as_ref()
        .map(|_| ("unpack-stopped".to_owned(), BAD));
    let (verdict, verdict_style) = pull
        .verdict
        .as_ref()
        .map(verdict_text)
        .or(stopped)
        .unwrap_or_else(|| ("-".to_owned(), base));
    vec![
        Cell::new(pull.id.to_string(), base),
        Cell::new(image(pull), base),
        Cell::new(stage, stage_style),
        Cell::new(pull.declared.map_or_else(|| "-".to_owned(), human_bytes), base),
        Cell::new(human_bytes(pull.stored), base),
        Cell::new(percent(pull.stored, pull.declared), base),
        Cell::new(sockets.to_string(), base),
        Cell::new(time::short(now.since(pull.since)), base),
        Cell::new(owner::short(pull), base),
        Cell::new(verdict, verdict_style),
    ]
}

/// As it was asked for, if that is known; else where its bytes come from.
fn image(pull: &PullReport) -> String {
    if let Some(owner) = &pull.owner {
        return escape::name(owner.image.as_str());
    }
    match pull.repositories.split_first() {
        None => "-".to_owned(),
        Some((first, [])) => escape::name(first.as_str()),
        Some((first, others)) => format!("{} +{}", escape::name(first.as_str()), others.len()),
    }
}

const fn stage(stage: Stage) -> (&'static str, Style) {
    match stage {
        Stage::Resolving => ("resolving", PLAIN),
        Stage::Downloading => ("downloading", BUSY),
        Stage::Waiting => ("waiting", WARN),
        Stage::Unpacking => ("unpacking", GOOD),
        Stage::Ended => ("ended", DIM),
    }
}

fn verdict_text(verdict: &VerdictReport) -> (String, Style) {
    let style = match verdict.mode {
        Mode::Observe => WARN,
        Mode::Enforce => BAD,
    };
    let tries = match verdict.attempts {
        0 => String::new(),
        1 => ", 1 try".to_owned(),
        many => format!(", {many} tries"),
    };
    (format!("{} ({}{tries})", verdict.reason, verdict.mode), style)
}

/// Whole percents; 100 only if nothing is missing.
fn percent(stored: u64, declared: Option<u64>) -> String {
    match declared {
        None | Some(0) => "-".to_owned(),
        Some(declared) => match u128::from(stored) * 100 / u128::from(declared) {
            1000.. => ">999%".to_owned(),
            percent => format!("{percent}%"),
        },
    }
}

/// What `--layers` adds under a pull.
fn details(pull: &PullReport, room: Room) -> Vec<String> {
    let mut out = note(
        &format!("lease {}", escape::name(&pull.lease.to_string())),
        DIM,
        room,
    );
    for text in owner::long(pull) {
        out.extend(note(&text, DIM, room));
    }
    if let Some(manifest) = &pull.manifest {
        out.extend(note(&format!("manifest {manifest}"), DIM, room));
    }
    if let Some(verdict) = &pull.verdict {
        let (text, style) = verdict_text(verdict);
        let rule = verdict.rule.as_ref().map_or_else(
            || "the policy's defaults".to_owned(),
            |rule| format!("rule {}", escape::name(rule)),
        );
        out.extend(note(
            &format!("{text} by {rule}: {}", escape::text(&verdict.why)),
            style,
            room,
        ));
    }
    if let Some(stop) = &pull.unpack_stop {
        out.extend(note(&format!("stopped while it was unpacked: {stop}"), BAD, room));
    }
    out.extend(layers(&pull.layers, room));
    out
}

/// The table of layers; where it is too wide, sockets move to lines of their own.
fn layers(layers: &[LayerReport], room: Room) -> Vec<String> {
    if layers.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![LAYER_HEADER.map(|title| Cell::new(title, DIM)).to_vec()];
    rows.extend(layers.iter().map(layer_row));
    let mut widths = natural_widths(&rows);
    let columns = room
        .columns
        .map_or(usize::MAX, |columns| columns.saturating_sub(INDENT));
    let sockets_below = total(&widths) > columns;
    if sockets_below {
        widths.truncate(LAYER_SOCKET);
    }
    while total(&widths) > columns && widths.len() > 1 {
        widths.pop();
    }
    if let [only] = widths.as_mut_slice() {
        *only = columns.min(*only);
    }
    let mut sockets = layers.iter().map(|layer| layer.socket);
    let mut out = Vec::new();
    for (at, mut row) in rows.into_iter().enumerate() {
        row.truncate(widths.len());
        out.push(format!("{:INDENT$}{}", "", line(&row, &LAYER_FILLS, &widths)));
        let socket = if at == 0 { None } else { sockets.next().flatten() };
        if let Some((socket, method)) = socket.filter(|_| sockets_below) {
            out.extend(note(
                &format!("  {} ({})", tuple(socket), method_name(method)),
                PLAIN,
                room,
            ));
        }
    }
    out
}

fn layer_row(layer: &LayerReport) -> Vec<Cell> {
    let (socket, method) = layer.socket.map_or(("-".to_owned(), "-"), |(socket, method)| {
        (tuple(socket), method_name(method))
    });
    vec![
        Cell::plain(short_digest(layer.digest.as_str())),
        Cell::plain(human_bytes(layer.declared)),
        Cell::plain(human_bytes(layer.stored)),
        Cell::plain(percent(layer.stored, Some(layer.declared))),
        Cell::plain(socket),
        Cell::plain(method),
    ]
}

/// Both ends. A dual-stack socket speaks of IPv4 as `[::ffff:a.b.c.d]`; people do not.
fn tuple(socket: SocketName) -> String {
    let [local, remote] = [socket.local, socket.remote]
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    format!("{local}->{remote}")
}

const fn method_name(method: TieMethod) -> &'static str {
    match method {
        TieMethod::Goroutine => "goroutine",
        TieMethod::Thread => "thread",
        TieMethod::ByteCount => "byte-count",
    }
}

fn short_digest(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
    format!(
        "{algorithm}:{}",
        hex.chars().take(DIGEST_DIGITS).collect::<String>()
    )
}

/// Indented text, wrapped into the room.
fn note(text: &str, style: Style, room: Room) -> Vec<String> {
    let width = room
        .columns
        .map_or(usize::MAX, |columns| columns.saturating_sub(INDENT));
    wrap(text, width)
        .into_iter()
        .map(|text| format!("{:INDENT$}{}", "", paint(&text, style)))
        .collect()
}

/// What of the lines fits above the last row, and how many do not.
pub(crate) fn page(mut lines: Vec<String>, room: Room) -> Vec<String> {
    let rows = room.rows.map_or(usize::MAX, |rows| rows.saturating_sub(1));
    if lines.len() > rows {
        let kept = rows.saturating_sub(1);
        let hidden = lines.len() - kept;
        lines.truncate(kept);
        lines.push(format!("{DIM}… {hidden} more lines{DIM:#}"));
    }
    lines
}
