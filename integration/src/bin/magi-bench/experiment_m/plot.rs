//! The picture: for each legit image a bar for each phase, one panel for each containerd and queue. Plain SVG.

use std::fmt::Write as _;

use super::plan::{Phase, Plan};
use super::{Found, MEGABITS, Row, median_times, worst_times};
use crate::experiment_m::plan::Queue;

const WIDTH: f64 = 1180.0;
const HEAD: f64 = 92.0;
const PANEL: (f64, f64) = (590.0, 330.0);
/// Of a panel's axes, from its left, top, right and bottom.
const INSET: (f64, f64, f64, f64) = (58.0, 46.0, 14.0, 56.0);
/// Part of an image's place that its bars fill.
const FILLED: f64 = 0.78;
const BARS: [(Phase, &str); 3] = [
    (Phase::Baseline, "#a3a9b1"),
    (Phase::Attack, "#cf4a4a"),
    (Phase::Magi, "#2b6ca3"),
];
const INK: &str = "#1d2126";
const FAINT: &str = "#dfe3e8";

/// Draws all that was found.
pub(super) fn draw(found: &[Found], plan: &Plan) -> String {
    let panels = found
        .iter()
        .flat_map(|one| Queue::ALL.map(|queue| (one, queue)))
        .collect::<Vec<_>>();
    let height = HEAD + PANEL.1 * found.len() as f64;
    let mut svg = Svg(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"'DejaVu Sans', Verdana, sans-serif\">\n"
    ));
    svg.rect((0.0, 0.0), (WIDTH, height), "#ffffff");
    svg.text(
        (20.0, 30.0),
        19.0,
        "start",
        "Experiment m: how long legit images take to be pulled",
    );
    let how = format!(
        "Link of {MEGABITS} Mbit/s. Attack: every {} s a pod with a new image of 1 to 7 layers of 200 MB, deleted after {:.2} s.",
        plan.attack_every.as_secs_f64(),
        plan.alive.as_secs_f64()
    );
    svg.text((20.0, 52.0), 13.0, "start", &how);
    legend(&mut svg);
    for (number, (found, queue)) in panels.iter().enumerate() {
        let origin = (
            PANEL.0 * (number % Queue::ALL.len()) as f64,
            HEAD + PANEL.1 * (number / Queue::ALL.len()) as f64,
        );
        panel(&mut svg, origin, found, *queue, plan);
    }
    svg.0.push_str("</svg>\n");
    svg.0
}

fn legend(svg: &mut Svg) {
    let mut x = 20.0;
    for (phase, colour) in BARS {
        svg.rect((x, 66.0), (14.0, 12.0), colour);
        svg.text((x + 20.0, 77.0), 13.0, "start", phase.title());
        x += 50.0 + 8.0 * phase.title().len() as f64;
    }
    svg.line((x, 72.0), (x + 16.0, 72.0), INK, 2.5);
    let hand =
        "attack, each pull cancelled by hand the moment its pod is deleted: what is left is its by right";
    svg.text((x + 22.0, 77.0), 13.0, "start", hand);
}

fn panel(svg: &mut Svg, origin: (f64, f64), found: &Found, queue: Queue, plan: &Plan) {
    let rows = found.rows(queue);
    let (left, top) = (origin.0 + INSET.0, origin.1 + INSET.1);
    let (right, bottom) = (origin.0 + PANEL.0 - INSET.2, origin.1 + PANEL.1 - INSET.3);
    let most = plan.limit.as_secs_f64();
    let y = |seconds: f64| bottom - (bottom - top) * (seconds / most).min(1.0);
    let title = format!("containerd {}, {}", found.version, queue.title());
    svg.text((left, origin.1 + 16.0), 13.5, "start", &title);
    let ratio = format!(
        "attack + magi = {:.2} × baseline (median), {:.2} × (worst)",
        median_times(&rows, Phase::Magi),
        worst_times(&rows, Phase::Magi)
    );
    svg.text((left, origin.1 + 34.0), 12.5, "start", &ratio);
    for tick in 0..=4 {
        let seconds = most * f64::from(tick) / 4.0;
        svg.line((left, y(seconds)), (right, y(seconds)), FAINT, 1.0);
        svg.text(
            (left - 6.0, y(seconds) + 4.0),
            12.0,
            "end",
            &format!("{seconds:.0} s"),
        );
    }
    let place = (right - left) / rows.len().max(1) as f64;
    for (number, row) in rows.iter().enumerate() {
        let x = left + place * (number as f64 + (1.0 - FILLED) / 2.0);
        bars(
            svg,
            row,
            (x, place * FILLED / BARS.len() as f64),
            bottom,
            &y,
            most,
        );
        let middle = left + place * (number as f64 + 0.5);
        let size = format!("{:.0}", row.image.bytes as f64 / 1e6);
        svg.text((middle, bottom + 17.0), 12.0, "middle", &size);
    }
    svg.line((left, bottom), (right, bottom), INK, 1.2);
    let axis = "size of the legit image in MB, in the order in which their pods were created";
    svg.text(((left + right) / 2.0, bottom + 36.0), 12.0, "middle", axis);
}

/// One image's bars, from `x` on, each `width` wide.
fn bars(
    svg: &mut Svg,
    row: &Row<'_>,
    (x, width): (f64, f64),
    bottom: f64,
    y: &dyn Fn(f64) -> f64,
    most: f64,
) {
    let mut x = x;
    for (phase, colour) in BARS {
        let top = y(row.of(phase).unwrap_or(most));
        svg.rect((x, top), (width - 1.0, bottom - top), colour);
        if row.of(phase).is_none() {
            // Open towards the top: nobody knows how long it would have taken.
            svg.text((x + width / 2.0, top - 3.0), 11.0, "middle", "▲");
        }
        if let (Phase::Magi, Some(hand)) = (phase, row.of(Phase::Hand)) {
            svg.line((x - 1.5, y(hand)), (x + width + 0.5, y(hand)), INK, 2.0);
        }
        x += width;
    }
}

/// The text of a picture.
struct Svg(String);

impl Svg {
    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }

    fn text(&mut self, (x, y): (f64, f64), size: f64, anchor: &str, words: &str) {
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{INK}\">{words}</text>"
        );
    }
}
