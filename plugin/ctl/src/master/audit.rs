//! `magictl audit`: the records of all nodes, from the master's store.

use std::collections::BTreeSet;

use magi_master_api::wire;
use magi_master_api::wire::admin_client::AdminClient;
use tonic::transport::Channel;

use super::args::{Filter, QueryArgs, TailArgs};
use super::{Record, answer, connect, refused};
use crate::output::{Exit, Failure, Reader, complain, print, print_json};
use crate::show::records::Columns;
use crate::terminal::{Room, WARN, room};

fn question(filter: &Filter) -> wire::AuditQuery {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    wire::AuditQuery {
        node: text(&filter.node),
        namespace: text(&filter.namespace),
        image: text(&filter.image),
        reason: filter
            .reason
            .map(|reason| reason.code().to_owned())
            .unwrap_or_default(),
        ..wire::AuditQuery::default()
    }
}

/// The records, and how many older ones found no room in the answer.
async fn ask(
    client: &mut AdminClient<Channel>,
    query: wire::AuditQuery,
) -> Result<(Vec<Record>, u64), Failure> {
    let most = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let found = answer(async {
        let mut answers = client.query_audit(query).await?.into_inner();
        let mut found = Vec::new();
        while found.len() < most
            && let Some(record) = answers.message().await?
        {
            found.push(record);
        }
        Ok(found)
    });
    let found = found.await?;
    let older = found.first().map_or(0, |first| first.skipped);
    let records = found
        .into_iter()
        .map(Record::try_from)
        .collect::<Result<_, _>>()?;
    Ok((records, older))
}

/// `magictl audit query`
pub(crate) async fn query(args: QueryArgs) -> Result<Exit, Failure> {
    let mut client = connect(&args.master).await?;
    let query = wire::AuditQuery {
        since_ms: args.since.unwrap_or_default(),
        until_ms: args.until.unwrap_or_default(),
        limit: args.limit,
        ..question(&args.filter)
    };
    let (records, older) = ask(&mut client, query).await?;
    let _nothing_more_to_print = show(&records, args.json, room(), &mut Columns::default())?;
    if records.is_empty() {
        complain("No record is stored that this asks for.\n");
    } else if older > 0 {
        complain(&format!(
            "{WARN}These are the newest {}; {older} older ones are left out: ask for them with --until.{WARN:#}\n",
            records.len()
        ));
    }
    Ok(Exit::Done)
}

/// `magictl audit tail`
pub(crate) async fn tail(args: TailArgs) -> Result<Exit, Failure> {
    let mut client = connect(&args.master).await?;
    let question = question(&args.filter);
    // Listened first, asked then: what is stored between the two comes twice, and nothing is missed.
    let mut follow = if args.follow {
        Some(answer(client.tail_audit(question.clone())).await?.into_inner())
    } else {
        None
    };
    let mut newest = Vec::new();
    if args.lines > 0 {
        let query = wire::AuditQuery {
            limit: args.lines,
            ..question
        };
        (newest, _) = ask(&mut client, query).await?;
    }
    let mut columns = Columns::default();
    if show(&newest, args.json, room(), &mut columns)? == Reader::Gone {
        return Ok(Exit::Done);
    }
    let mut shown: BTreeSet<(String, u64, u64)> = newest
        .into_iter()
        .map(|record| (record.node, record.run, record.seq))
        .collect();
    let Some(follow) = follow.as_mut() else {
        return Ok(Exit::Done);
    };
    while let Some(stored) = follow.message().await.map_err(|status| refused(&status))? {
        if stored.skipped > 0 {
            complain(&format!(
                "{WARN}{} records went by unseen; `magictl audit query` has them.{WARN:#}\n",
                stored.skipped
            ));
        }
        let record = Record::try_from(stored)?;
        if shown.remove(&(record.node.clone(), record.run, record.seq)) {
            continue;
        }
        if show(&[record], args.json, room(), &mut columns)? == Reader::Gone {
            return Ok(Exit::Done);
        }
    }
    Err(Failure::new(Exit::Unreachable, "the master has ended the tail"))
}

fn show(records: &[Record], json: bool, room: Room, columns: &mut Columns) -> Result<Reader, Failure> {
    if json {
        for record in records {
            if print_json(record)? == Reader::Gone {
                return Ok(Reader::Gone);
            }
        }
        return Ok(Reader::Listening);
    }
    let lines = columns.lines(records, room);
    if lines.is_empty() {
        return Ok(Reader::Listening);
    }
    print(&(lines.join("\n") + "\n"))
}
