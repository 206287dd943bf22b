//! What people read: tables and the plot beside the results, and in `integration/benches` if asked to.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::{Phase, Plan, Queue};
use super::{Found, attack_bytes, median_times, plot, sum_times, worst_times};
use crate::figure::{Figure, Setting};
use crate::options::Options;

const PLOT: &str = "experiment-m.svg";
const BEGIN: &str = "<!-- experiment-m: from here to its end, written by magi-bench --write -->";
const END: &str = "<!-- experiment-m: end -->";

/// Writes both.
pub(super) fn write(
    found: &[Found],
    plan: &Plan,
    figure: &Figure,
    options: &Options,
    setting: &Setting,
) -> Result<()> {
    let plot = plot::draw(found, plan);
    let page = tables(found, plan, figure, setting);
    put(&setting.folder().join(PLOT), &plot)?;
    put(&setting.folder().join("experiment-m.md"), &page)?;
    if options.write {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        put(&benches.join(PLOT), &plot)?;
        let readme = benches.join("README.md");
        let text = fs::read_to_string(&readme).context("read the page of the benches")?;
        let text = replaced(&text, &page)
            .with_context(|| format!("{} has no place for experiment m", readme.display()))?;
        put(&readme, &text)?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The page with the new tables in their place, if there is one.
fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

fn tables(found: &[Found], plan: &Plan, figure: &Figure, setting: &Setting) -> String {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let load = |load: [f64; 3]| load.map(|load| format!("{load:.2}")).join(", ");
    let mut text = format!(
        "Taken on {date} with {}.\nLoad averages before: {}; after: {}.\n\n![time to pulled of every legit image]({PLOT})\n\n",
        setting.headline(),
        load(figure.load_before),
        load(figure.load_after),
    );
    text.push_str(
        "| containerd | pulls | (attack + magi) / baseline: median | worst | sum | attack / baseline: median | \
         cancelled by hand / baseline: median | not pulled: attack, + magi | MB sent for attacks with magi: pods alive, deleted |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for one in found {
        for queue in Queue::ALL {
            summary(&mut text, one, queue);
        }
    }
    for missed in figure.missed() {
        let _ = writeln!(text, "\nGoal missed: {missed}");
    }
    for one in found {
        let _ = write!(
            text,
            "\nSeconds on containerd {}, from the pod's creation (> {}: not within the phase):\n\n\
             | image | created | one at a time: baseline | attack | attack + magi | × | all at once: baseline | attack | attack + magi | × |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
            one.version,
            plan.limit.as_secs()
        );
        images(&mut text, one, plan);
    }
    text
}

fn summary(text: &mut String, found: &Found, queue: Queue) {
    let rows = found.rows(queue);
    let not_pulled = |phase| rows.iter().filter(|row| row.of(phase).is_none()).count();
    let (alive, dead) = attack_bytes(found, queue, Phase::Magi);
    let sum = sum_times(&rows, Phase::Magi).map_or("–".to_owned(), |times| format!("{times:.3}"));
    let _ = writeln!(
        text,
        "| {} | {} | **{:.3}** | {:.3} | {sum} | {:.2} | {:.3} | {}, {} | {}, {} |",
        found.version,
        queue.title(),
        median_times(&rows, Phase::Magi),
        worst_times(&rows, Phase::Magi),
        median_times(&rows, Phase::Attack),
        median_times(&rows, Phase::Hand),
        not_pulled(Phase::Attack),
        not_pulled(Phase::Magi),
        alive / 1_000_000,
        dead / 1_000_000,
    );
}

fn images(text: &mut String, found: &Found, plan: &Plan) {
    let limit = plan.limit.as_secs();
    let [serial, parallel] = Queue::ALL.map(|queue| found.rows(queue));
    for (serial, parallel) in serial.iter().zip(&parallel) {
        let _ = write!(
            text,
            "| {:.0} MB | {:.2} |",
            serial.image.bytes as f64 / 1e6,
            serial.image.created
        );
        for row in [serial, parallel] {
            for phase in [Phase::Baseline, Phase::Attack, Phase::Magi] {
                let _ = match row.of(phase) {
                    Some(seconds) => write!(text, " {seconds:.2} |"),
                    None => write!(text, " > {limit} |"),
                };
            }
            let _ = match row.times(Phase::Magi, Phase::Baseline) {
                Some(times) => write!(text, " {times:.3} |"),
                None => write!(text, " – |"),
            };
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replaced};

    #[test]
    fn new_tables_take_the_place_of_old_ones() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}\nnew\n{END}\nafter\n");
        assert_eq!(replaced(&page, "new\n").as_deref(), Some(expected.as_str()));
        assert_eq!(replaced("nothing of that kind", "new\n"), None);
    }
}
