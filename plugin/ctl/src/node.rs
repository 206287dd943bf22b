//! The commands that ask magi-node.

use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

use magi_engine::Time;
use magi_engine::action::Answer;
use magi_engine::ids::PullId;
use magi_engine::owner::NodePod;
use magi_engine::report::Report;
use magi_node_api::{Client, Patience};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{AbortArgs, PanicArgs, PodsArgs, PullsArgs, StatusArgs};
use crate::output::{Exit, Failure, Reader, complain, control, print, print_json, say};
use crate::show;
use crate::terminal::{Room, WARN, on_terminal, room};

/// Home, and what remains of the last look removed behind each line and below.
const CLEAR: &str = "\x1b[2J";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Longest reply to a question that is read.
const REPLY: u64 = 64;

async fn connect(socket: &Path) -> Result<Client, Failure> {
    Ok(Client::connect(socket, Patience::default()).await?)
}

#[derive(Serialize)]
struct PullsJson<'a> {
    now: Time,
    #[serde(flatten)]
    report: &'a Report,
}

/// `magictl pulls`
pub(crate) async fn pulls(socket: &Path, args: PullsArgs) -> Result<Exit, Failure> {
    let mut client = connect(socket).await?;
    let Some(pause) = args.watch else {
        let (now, report) = client.pulls(args.ended).await?;
        let _nothing_more_to_print = if args.json {
            print_json(&PullsJson { now, report: &report })?
        } else {
            print_lines(&show::pulls::pulls(now, &report, args.layers, room()), "")?
        };
        return Ok(Exit::Done);
    };
    let mut looks = interval(pause);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        looks.tick().await;
        let (now, report) = match client.pulls(args.ended).await {
            // The node hangs up on who is silent for longer than it likes.
            Err(_) if !first => {
                client = connect(socket).await?;
                client.pulls(args.ended).await?
            }
            result => result?,
        };
        let reader = if args.json {
            print_json(&PullsJson { now, report: &report })?
        } else {
            show_look(now, &report, args, first)?
        };
        if reader == Reader::Gone {
            return Ok(Exit::Done);
        }
        first = false;
    }
}

fn show_look(now: Time, report: &Report, args: PullsArgs, first: bool) -> Result<Reader, Failure> {
    if !on_terminal() {
        let room = Room { rows: None, ..room() };
        let mut lines = show::pulls::pulls(now, report, args.layers, room);
        lines.push(String::new());
        return print_lines(&lines, "");
    }
    let room = room();
    let lines = show::pulls::page(show::pulls::pulls(now, report, args.layers, room), room);
    if first {
        let _asked_below = control(CLEAR)?;
    }
    let _asked_below = control(HOME)?;
    for line in lines {
        let _asked_below = print(&line)?;
        let _asked_below = control(REST_OF_LINE)?;
        let _asked_below = control("\n")?;
    }
    control(REST_OF_SCREEN)
}

fn print_lines(lines: &[String], end: &str) -> Result<Reader, Failure> {
    print(&(lines.join("\n") + "\n" + end))
}

/// `magictl abort`
pub(crate) async fn abort(socket: &Path, args: AbortArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct AbortJson<'a> {
        pull: PullId,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let answer = connect(socket).await?.abort(args.pull).await?;
    let pull = args.pull;
    if args.json {
        let _nothing_more_to_print = print_json(&AbortJson {
            pull,
            answer: &answer,
        })?;
    }
    let (exit, message) = match answer {
        Answer::Ended => {
            if !args.json {
                let _nothing_more_to_print = say(format!("{pull} has ended."))?;
            }
            return Ok(Exit::Done);
        }
        Answer::NoSuchPull => (
            Exit::NoSuchPull,
            format!("no pull {pull} is in flight; see `magictl pulls`"),
        ),
        Answer::StillRunning { why } => (
            Exit::StillRunning,
            format!("{pull} has not ended yet, magi-node goes on trying: {why}"),
        ),
        Answer::Failed { why } => (Exit::Failed, format!("{pull} could not be stopped: {why}")),
        Answer::Busy => (
            Exit::Failed,
            "too many questions wait for magi-node already; try again".to_owned(),
        ),
        Answer::Pulls { .. }
        | Answer::Pods { .. }
        | Answer::Admitted { .. }
        | Answer::TurnedAway { .. }
        | Answer::Noted { .. }
        | Answer::Refused { .. }
        | Answer::Closed { .. } => return Err(unasked()),
    };
    Err(Failure::new(exit, message))
}

/// `magictl panic`
pub(crate) async fn panic(socket: &Path, args: PanicArgs) -> Result<Exit, Failure> {
    if !args.yes {
        confirm()?;
    }
    let answer = connect(socket).await?.panic().await?;
    if args.json {
        let _nothing_more_to_print = print_json(&answer)?;
    }
    let message = match answer {
        Answer::Closed { count } => {
            if !args.json {
                let plural = if count == 1 { "" } else { "s" };
                let _nothing_more_to_print = say(format!(
                    "Closed {count} registry connection{plural} of containerd."
                ))?;
            }
            return Ok(Exit::Done);
        }
        Answer::Failed { why } => format!("the registry connections could not be closed: {why}"),
        Answer::StillRunning { why } => format!("the registry connections are not closed yet: {why}"),
        Answer::Busy => "too many questions wait for magi-node already; try again".to_owned(),
        Answer::Pulls { .. }
        | Answer::Pods { .. }
        | Answer::Admitted { .. }
        | Answer::TurnedAway { .. }
        | Answer::Noted { .. }
        | Answer::Refused { .. }
        | Answer::Ended
        | Answer::NoSuchPull => return Err(unasked()),
    };
    Err(Failure::new(Exit::Failed, message))
}

fn confirm() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "`magictl panic` closes every registry connection of containerd; without a terminal to ask on, say --yes",
        ));
    }
    complain(&format!(
        "{WARN}This closes every registry connection of containerd on this node.{WARN:#}\n\
         Every image pull in flight fails, good ones too; kubelet tries them again.\n\
         Go on? [y/N] "
    ));
    let mut reply = String::new();
    let _length = stdin
        .lock()
        .take(REPLY)
        .read_line(&mut reply)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read the reply: {error}")))?;
    if matches!(reply.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, "not confirmed; nothing was done"))
    }
}

/// `magictl status`
pub(crate) async fn status(socket: &Path, args: StatusArgs) -> Result<Exit, Failure> {
    let status = connect(socket).await?.status().await?;
    let _nothing_more_to_print = if args.json {
        print_json(&status)?
    } else {
        print(&show::status::status(&status))?
    };
    Ok(Exit::Done)
}

/// `magictl pods`
pub(crate) async fn pods(socket: &Path, args: PodsArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct PodsJson<'a> {
        now: Time,
        pods: Option<&'a [NodePod]>,
    }
    let (now, pods) = connect(socket).await?.pods().await?;
    if args.json {
        let pods = pods.as_deref();
        let _nothing_more_to_print = print_json(&PodsJson { now, pods })?;
    }
    let Some(pods) = pods else {
        return Err(Failure::new(
            Exit::Failed,
            "magi-node is not connected to NRI, so it knows no pods; `magictl doctor` says why",
        ));
    };
    if !args.json {
        let _nothing_more_to_print = print_lines(&show::pods::pods(&pods, room()), "")?;
    }
    Ok(Exit::Done)
}

fn unasked() -> Failure {
    Failure::new(Exit::Failed, magi_node_api::ClientError::Unasked.to_string())
}
