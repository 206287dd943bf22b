//! Traces that replay, and traces that do not.

use super::*;
use crate::evidence::Source;

fn line(at: u64, event: Event) -> Line {
    Line {
        at: Time::from_micros(at),
        event,
        effects: None,
    }
}

fn recorded(lines: Vec<Line>) -> Vec<u8> {
    let mut engine = Engine::new();
    let mut trace = Vec::new();
    for mut line in lines {
        let mut fx = Effects::default();
        engine.handle(line.at, line.event.clone(), &mut fx);
        line.effects = Some(fx.take());
        line.write_to(&mut trace).unwrap();
    }
    trace
}

fn containerd_up(at: u64) -> Line {
    let source = Source::Containerd;
    line(at, Event::SourceUp { source })
}

#[test]
fn a_recorded_trace_replays_without_a_difference() {
    let trace = recorded(vec![containerd_up(1), line(2, Event::Tick)]);
    let lines: Vec<Replayed> = replay(&trace[..]).collect::<Result<_, _>>().unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1].line, 2);
    assert!(!lines[0].effects.is_empty());
    assert!(lines.iter().all(|line| line.difference.is_none()));
}

#[test]
fn the_first_difference_is_told() {
    let mut one = containerd_up(1);
    one.effects = Some(vec![Action::ListSockets]);
    let mut trace = Vec::new();
    one.write_to(&mut trace).unwrap();
    let replayed = replay(&trace[..]).next().unwrap().unwrap();
    let difference = replayed.difference.unwrap();
    assert_eq!(difference.index, 0);
    assert_eq!(difference.recorded, Some(Action::ListSockets));
    assert_eq!(difference.replayed.as_ref(), replayed.effects.first());
}

#[test]
fn effects_that_were_not_recorded_are_not_compared() {
    let trace = br#"{"at":5,"event":{"event":"source-up","source":"containerd"}}"#;
    let replayed = replay(&trace[..]).next().unwrap().unwrap();
    assert!(!replayed.effects.is_empty());
    assert_eq!(replayed.difference, None);
}

#[test]
fn an_error_names_its_line_and_ends_the_trace() {
    let trace = concat!(
        "{\"at\":5,\"event\":{\"event\":\"tick\"}}\n",
        "\n",
        "{\"at\":6,\"event\":{\"event\":\"tock\"}}\n",
        "{\"at\":7,\"event\":{\"event\":\"tick\"}}\n"
    );
    let mut lines = read(trace.as_bytes());
    assert!(matches!(lines.next(), Some(Ok((1, _)))));
    assert!(matches!(
        lines.next(),
        Some(Err(TraceError::Syntax { line: 3, .. }))
    ));
    assert!(lines.next().is_none());
}

#[test]
fn time_must_not_step_back() {
    let mut trace = Vec::new();
    for at in [6, 5] {
        line(at, Event::Tick).write_to(&mut trace).unwrap();
    }
    let second = read(&trace[..]).nth(1);
    assert!(
        matches!(second, Some(Err(TraceError::TimeStepsBack { line: 2 }))),
        "{second:?}"
    );
}

#[test]
fn an_endless_line_is_refused_and_not_read_to_its_end() {
    let endless = std::io::BufReader::new(std::io::repeat(b'['));
    assert!(matches!(
        read(endless).next(),
        Some(Err(TraceError::TooLong { line: 1 }))
    ));
    let longest = vec![b' '; MAX_LINE];
    assert!(read(&longest[..]).next().is_none(), "blank, and not too long");
    let longer = vec![b' '; MAX_LINE + 1];
    assert!(matches!(
        read(&longer[..]).next(),
        Some(Err(TraceError::TooLong { line: 1 }))
    ));
}
