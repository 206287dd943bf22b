//! Input that means no good, at a master whose memory is limited: it is counted, the master lives, and goes on.

use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http_body_util::channel::Channel;
use hyper::body::Bytes;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::lines::{Pod, Recorded};
use crate::world::{Log, NODES, World};
use crate::{TOKEN, https, intake, is_gone};

/// Address space of the master: far less than what is sent to it. Most of it is reserved for threads, and never used.
const LIMIT: u64 = 1 << 30;
/// Of which so much may ever be resident.
const MOST_RESIDENT: u64 = 256 << 20;
const MEBIBYTE: usize = 1 << 20;

/// The most memory that a process ever had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Posts an event list of a gibibyte that never says how long it is; what is answered, and how much was taken.
async fn post_a_gibibyte(world: &World, address: &str) -> (Option<u16>, usize) {
    let mut send = https(world, "master", address).await.unwrap();
    let (mut to, body) = Channel::<Bytes>::new(1);
    let request = http::Request::post("/")
        .header(HOST, address)
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .body(body)
        .unwrap();
    let writing = tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; MEBIBYTE]);
        let mut taken = 0;
        let begin = Bytes::from_static(b"{\"kind\":\"EventList\",\"items\":[{\"a\":\"");
        if to.send_data(begin).await.is_err() {
            return taken;
        }
        while taken < 1 << 30 && to.send_data(piece.clone()).await.is_ok() {
            taken += MEBIBYTE;
        }
        taken
    });
    let answered = send.send_request(request).await;
    let status = answered.ok().map(|answer| answer.status().as_u16());
    drop(send);
    (status, writing.await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_is_counted_in_bounded_memory() {
    let world = World::new(|path| {
        format!(
            "{{ auditLog: {{ path: {}, state: {} }}, webhook: {{ listen: '127.0.0.1:0', tokenFile: {} }} }}",
            path("log/audit.log"),
            path("state/audit-log.json"),
            path("token")
        )
    });
    std::fs::write(world.path("token"), TOKEN).unwrap();
    let recorded = Recorded::read();
    let mut log = Log::new(world.path("log/audit.log"));
    let master = world.master();
    let pid = Pid::from_raw(i32::try_from(master.pid()).unwrap());
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    prlimit(pid, Resource::As, limit).unwrap();
    let mut node = world.node(NODES[0]);
    node.connected().await;
    let pod = Pod {
        number: 1,
        node: NODES[0],
    };
    log.write(&recorded.created(&pod));
    log.write(&recorded.bound(&pod));

    // A line of 100 MB, one that is no UTF-8, and one that is nested a hundred thousand deep.
    let delete = recorded.deleted(&pod);
    for _ in 0..100 {
        log.write_bytes(&vec![b'x'; 1_000_000]);
    }
    log.write("\n");
    let at = delete.find("\"username\":\"").unwrap() + 13;
    let mut broken = delete.clone().into_bytes();
    broken[at] = 0xff;
    log.write_bytes(&broken);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    log.write(&delete.replacen("\"phase\":\"", &format!("\"phase\":{deep},\"x\":\""), 1));
    let status = world
        .status_when(|status| intake(status, "audit-log").unusable.values().sum::<u64>() >= 3)
        .await;
    let unusable = &intake(&status, "audit-log").unusable;
    assert_eq!(unusable["too-long"], 1, "{unusable:?}");
    assert_eq!(unusable["not-utf8"], 1, "{unusable:?}");
    assert_eq!(unusable["body-not-understood"], 1, "{unusable:?}");

    let (answered, taken) = post_a_gibibyte(&world, &master.intakes["webhook"]).await;
    assert!(answered.is_none_or(|status| status == 413), "{answered:?}");
    assert!(taken < 1 << 29, "{taken} bytes were taken");
    let refused = |status: &magi_master_api::wire::MasterStatus| {
        intake(status, "webhook").unusable.get("body-too-large").copied() == Some(1)
    };
    world.status_when(refused).await;

    // None of it was the deletion, and the master still hears of that.
    log.write(&delete);
    assert!(is_gone(&node.verdict().await, &pod));
    let peak = peak(master.pid());
    eprintln!("the master had {} MiB at most", peak >> 20);
    assert!(peak < MOST_RESIDENT, "{peak} bytes");
    tokio::time::timeout(Duration::from_secs(20), world.status())
        .await
        .unwrap();
}
