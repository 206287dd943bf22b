//! A few attacks of the hostile suite, one of each kind, on both containerds; and that the table in README.md is whole.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use magi_integration::Line;
use magi_integration::hostile::table::{BEGIN, END};
use magi_integration::hostile::verdict::{Cell, Report, Verdict};
use magi_integration::hostile::{self, Mode, Selection, cases, table};

const MIB: u64 = 1 << 20;

fn stopped_for(cell: &Cell, wanted: &str) -> Result<()> {
    let (Verdict::Stopped { reason, .. } | Verdict::Refused { reason, .. }) = &cell.verdict else {
        bail!("not stopped: {cell:?}")
    };
    ensure!(reason == wanted, "{cell:?}");
    ensure!(cell.layer_bytes < 64 * MIB, "late: {cell:?}");
    Ok(())
}

fn is_as_expected(cell: &Cell) -> Result<()> {
    ensure!(cell.collateral.is_none(), "an innocent was hit: {cell:?}");
    match (cell.case.as_str(), cell.mode) {
        ("endless-chunked" | "redirects" | "proxy", _) => stopped_for(cell, "layer-overruns-manifest"),
        ("huge-image", _) => stopped_for(cell, "image-too-large"),
        ("gzip-bomb-files", Mode::Passive) => {
            ensure!(
                matches!(cell.verdict, Verdict::Escapes { .. }),
                "who stopped it? {cell:?}"
            );
            Ok(())
        }
        ("gzip-bomb-files", _) => {
            ensure!(cell.verdict == Verdict::UnpackStopped, "{cell:?}");
            ensure!(
                cell.written <= (256 + 64) * MIB,
                "more than the bound was written: {cell:?}"
            );
            Ok(())
        }
        ("swapped-manifest", _) => {
            let Verdict::Containerd { error } = &cell.verdict else {
                bail!("{cell:?}")
            };
            ensure!(error.contains("failed size validation"), "{cell:?}");
            ensure!(cell.layer_bytes == 0, "{cell:?}");
            Ok(())
        }
        _ => bail!("not expected: {cell:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_attack_of_each_kind_is_stopped_beside_a_healthy_pull() -> Result<()> {
    let names = [
        "endless-chunked",
        "huge-image",
        "swapped-manifest",
        "gzip-bomb-files",
        "redirects",
        "proxy",
    ];
    let selection = Selection {
        cases: names.map(ToOwned::to_owned).into(),
        modes: vec![Mode::Passive, Mode::Gateway],
        ..Selection::default()
    };
    let report = hostile::run(&selection, |cell| {
        println!(
            "{} {} {}: {}",
            cell.line,
            cell.mode,
            cell.case,
            table::shown(cell, true)
        );
    })
    .await?;
    ensure!(report.cells.len() == names.len() * 4, "{}", report.cells.len());
    report.cells.iter().try_for_each(is_as_expected)
}

fn readme() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(path).context("read README.md")
}

/// The rows of the table in README.md: attack, containerd, and a cell for each mode.
fn rows(readme: &str) -> Result<Vec<Vec<String>>> {
    let (_, rest) = readme.split_once(BEGIN).context("no table")?;
    let (table, _) = rest.split_once(END).context("no end of the table")?;
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    Ok(rows
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect())
}

/// What is wrong with a table.
fn complaints(rows: &[Vec<String>]) -> Vec<String> {
    let mut complaints = Vec::new();
    for case in cases::all() {
        for line in Line::ALL {
            let mut all = rows.iter();
            let found = all.find(|row| {
                row.first().map(String::as_str) == Some(case.what) && row.get(1) == Some(&line.to_string())
            });
            let Some([_, _, cells @ ..]) = found.map(Vec::as_slice) else {
                complaints.push(format!("{} on {line}: no row", case.name));
                continue;
            };
            if cells.len() != Mode::ALL.len() || cells.iter().any(|cell| cell == "–") {
                complaints.push(format!("{} on {line}: not measured in each mode", case.name));
            }
            let escapes = cells.last().is_some_and(|cell| cell.contains("escapes"));
            if escapes && !cases::OPEN.contains(&case.name) {
                complaints.push(format!("{} on {line}: escapes magi-gateway", case.name));
            }
            if cells
                .iter()
                .any(|cell| cell.contains("healthy pull beside it fails"))
            {
                complaints.push(format!("{} on {line}: hits an innocent", case.name));
            }
        }
    }
    complaints
}

#[test]
fn the_table_in_the_readme_is_whole_and_nothing_new_escapes_the_gateway() -> Result<()> {
    let rows = rows(&readme()?)?;
    let found = complaints(&rows);
    ensure!(found.is_empty(), "run `make hostile`: {found:#?}");
    ensure!(rows.len() == 2 * cases::all().count(), "rows of what is no case");
    Ok(())
}

#[test]
fn a_table_that_is_not_whole_is_seen() -> Result<()> {
    let table = |cells: &[Cell]| -> Result<Vec<String>> {
        let report = Report {
            versions: Line::ALL.map(|line| (line.to_string(), "1".to_owned())).to_vec(),
            cells: cells.to_vec(),
            ..Report::default()
        };
        let text = format!("{BEGIN}\n{}{END}", table::markdown(&report, "2026-01-01"));
        Ok(complaints(&rows(&text)?))
    };
    let mut cells = Vec::new();
    for case in cases::all() {
        for line in Line::ALL {
            cells.extend(Mode::ALL.map(|mode| Cell {
                case: case.name.to_owned(),
                line: line.to_string(),
                mode,
                verdict: Verdict::UnpackStopped,
                layer_bytes: 0,
                written: 0,
                took_ms: 0,
                healthy_ms: 0,
                error: String::new(),
                collateral: None,
            }));
        }
    }
    assert_eq!(table(&cells)?, Vec::<String>::new());
    let first = |change: fn(&mut Cell)| {
        let mut cells = cells.clone();
        cells.iter_mut().take(3).for_each(change);
        table(&cells)
    };
    let escapes = first(|cell| cell.verdict = Verdict::Escapes { why: String::new() })?;
    assert_eq!(escapes, ["endless-chunked on 1.7: escapes magi-gateway"]);
    let hit = first(|cell| cell.collateral = Some(String::new()))?;
    assert_eq!(hit, ["endless-chunked on 1.7: hits an innocent"]);
    let absent = first(|cell| cell.case = "other".to_owned())?;
    assert_eq!(absent, ["endless-chunked on 1.7: not measured in each mode"]);
    Ok(())
}
