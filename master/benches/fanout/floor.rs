//! What the machine takes for a fan-out without a master: one process writes a few bytes to each of many plain TCP
//! connections, another one reads them in a task for each. No TLS, no HTTP/2, no protobuf, nothing is looked up.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::master::Master;
use crate::{Cost, Meter};

/// As long as a verdict of the bench, encrypted and framed.
const BYTES: usize = 220;
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes as it is told, in this process, until standard input ends.
pub(crate) async fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (tell, mut accepted) = mpsc::channel(65_536);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_err() || tell.send(stream).await.is_err() {
                return;
            }
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut streams: Vec<TcpStream> = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let numbers: Vec<usize> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [count, _, _] = numbers.as_slice() else {
            bail!("{line:?} is no order");
        };
        while streams.len() < *count {
            streams.push(accepted.recv().await.context("nobody connects any more")?);
        }
        // A burst begins for all at once, and so does the clock.
        let mut message = [0; BYTES];
        let now = Timestamp::now().as_microsecond().to_le_bytes();
        message.iter_mut().zip(now).for_each(|(to, from)| *to = from);
        for stream in &mut streams {
            stream.write_all(&message).await?;
        }
        println!("sent");
    }
    Ok(())
}

/// Latencies in microseconds of so many messages, so many times, and what each cost.
pub(crate) async fn measure(number: usize, bursts: usize) -> Result<(Vec<i64>, Cost)> {
    let mut master = Master::launch(&["floor".as_ref()]).await?;
    let (told, mut hears) = mpsc::channel(65_536);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(master.address).await?;
        let told = told.clone();
        tasks.spawn(async move {
            let mut message = [0; BYTES];
            while stream.read_exact(&mut message).await.is_ok() {
                let now = Timestamp::now().as_microsecond();
                let at = message
                    .first_chunk()
                    .map_or(0, |bytes| i64::from_le_bytes(*bytes));
                let _over = told.send(now - at).await;
            }
        });
    }
    // The first is for the connections themselves.
    let mut all = Vec::new();
    let mut meter = Meter::start(&master)?;
    for burst in 0..=bursts {
        master.send(number as u64, 0, number).await?;
        for _ in 0..number {
            let one = tokio::time::timeout(PATIENCE, hears.recv()).await?;
            all.push(one.context("nobody reads")?);
        }
        if burst == 0 {
            all.clear();
            meter = Meter::start(&master)?;
        }
    }
    let cost = meter.cost(&master, all.len())?;
    master.end().await?;
    Ok((all, cost))
}
