//! The asker's end, with errors that say what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use magi_engine::Time;
use magi_engine::action::Answer;
use magi_engine::ids::PullId;
use magi_engine::owner::NodePod;
use magi_engine::report::Report;
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::line::{Heard, MAX_ANSWER, VERSION, read_answer, write_request};
use crate::reply::{Refusal, Reply};
use crate::request::Ask;
use crate::status::NodeStatus;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no such socket.
    #[error("is magi-node running? its control socket is not at {}; set --socket or MAGI_SOCKET", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
    },
    /// A socket is there, and nobody listens on it.
    #[error("is magi-node running? nobody listens on {}", path.display())]
    Deserted {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is for root.
    #[error("permission denied on {}: magi-node answers to root only", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be connected to.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its queue of connections did not move.
    #[error("magi-node did not take the connection on {} within {} s", path.display(), after.as_secs_f32())]
    ConnectLate {
        /// The socket.
        path: PathBuf,
        /// The patience.
        after: Duration,
    },
    /// The request could not be written.
    #[error("cannot send the request to magi-node")]
    Send(#[source] LinesCodecError),
    /// The request could not be put into words.
    #[error("cannot encode the request")]
    Encode(#[source] serde_json::Error),
    /// The connection broke.
    #[error("cannot read magi-node's answer")]
    Receive(#[source] io::Error),
    /// The node hung up instead of answering.
    #[error("magi-node hung up before its answer was complete")]
    Cut,
    /// The answer is longer than the contract allows.
    #[error("magi-node's answer has more than {MAX_ANSWER} bytes")]
    TooLong,
    /// No answer came in time.
    #[error("magi-node did not answer within {} s", after.as_secs_f32())]
    Late {
        /// The patience.
        after: Duration,
    },
    /// The node speaks another version.
    #[error("magi-node speaks {} of the control contract, this program version {VERSION}", version_name(*theirs))]
    WrongVersion {
        /// Theirs, if it said any.
        theirs: Option<u64>,
    },
    /// The answer is no document of this contract.
    #[error("magi-node's answer makes no sense")]
    Nonsense(#[source] serde_json::Error),
    /// The answer belongs to another question.
    #[error("magi-node answered something that was not asked")]
    Unasked,
    /// The node refused.
    #[error("magi-node refused: {0}")]
    Refused(Refusal),
}

fn version_name(version: Option<u64>) -> String {
    version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"))
}

impl ClientError {
    /// Whether no node was reached at all, so that nothing can have happened.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. }
                | Self::Deserted { .. }
                | Self::Forbidden { .. }
                | Self::Connect { .. }
                | Self::ConnectLate { .. }
        )
    }
}

/// How long to wait for the node.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the connection.
    pub connect: Duration,
    /// For each answer, sending included.
    pub answer: Duration,
}

impl Default for Patience {
    /// More than the node takes for any answer by its own limits.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(130),
        }
    }
}

/// A connection to a node. After an error other than [`ClientError::Refused`] it is of no more use.
#[derive(Debug)]
pub struct Client {
    lines: Framed<UnixStream, LinesCodec>,
    patience: Patience,
}

impl Client {
    /// Connects to the node's control socket.
    ///
    /// # Errors
    /// Those for which [`ClientError::is_unreachable`] holds.
    pub async fn connect(socket: &Path, patience: Patience) -> Result<Self, ClientError> {
        let path = || socket.to_owned();
        let stream = timeout(patience.connect, UnixStream::connect(socket))
            .await
            .map_err(|_| ClientError::ConnectLate {
                path: path(),
                after: patience.connect,
            })?
            .map_err(|source| match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => ClientError::Absent { path: path() },
                Some(Errno::CONNREFUSED) => ClientError::Deserted { path: path() },
                Some(Errno::ACCESS | Errno::PERM) => ClientError::Forbidden { path: path() },
                Some(_) | None => ClientError::Connect { path: path(), source },
            })?;
        Ok(Self {
            lines: Framed::new(stream, LinesCodec::new_with_max_length(MAX_ANSWER)),
            patience,
        })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The node refused, or no sound answer came in time; then what was asked for may have happened or not.
    pub async fn ask(&mut self, ask: Ask) -> Result<Reply, ClientError> {
        let line = write_request(ask).map_err(ClientError::Encode)?;
        timeout(self.patience.answer, self.exchange(line))
            .await
            .unwrap_or(Err(ClientError::Late {
                after: self.patience.answer,
            }))
    }

    async fn exchange(&mut self, request: String) -> Result<Reply, ClientError> {
        let sent = self.lines.send(request).await;
        // A node that refuses the whole connection says so and hangs up, perhaps before it reads.
        let line = match (self.lines.next().await, sent) {
            (Some(Ok(line)), _) => line,
            (_, Err(error)) => return Err(ClientError::Send(error)),
            (Some(Err(LinesCodecError::MaxLineLengthExceeded)), Ok(())) => return Err(ClientError::TooLong),
            (Some(Err(LinesCodecError::Io(error))), Ok(())) => return Err(ClientError::Receive(error)),
            (None, Ok(())) => return Err(ClientError::Cut),
        };
        match read_answer(&line) {
            Heard::Reply(reply) => Ok(reply),
            Heard::Refused(refusal) => Err(ClientError::Refused(refusal)),
            Heard::OtherVersion(theirs) => Err(ClientError::WrongVersion { theirs }),
            // LinesCodec takes what stands before the end of the stream for a line.
            Heard::Nonsense(error) if error.is_eof() => Err(ClientError::Cut),
            Heard::Nonsense(error) => Err(ClientError::Nonsense(error)),
        }
    }

    /// The pulls in flight, with the ended ones if wanted, and the node's time.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn pulls(&mut self, ended: bool) -> Result<(Time, Report), ClientError> {
        match self.ask(Ask::Pulls { ended }).await? {
            Reply::Answer {
                now,
                answer: Answer::Pulls { report },
            } => Ok((now, report)),
            Reply::Answer { .. } | Reply::Status(_) => Err(ClientError::Unasked),
        }
    }

    /// Has a pull stopped.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn abort(&mut self, pull: PullId) -> Result<Answer, ClientError> {
        self.answer(Ask::Abort { pull }).await
    }

    /// Has every registry connection of containerd closed.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn panic(&mut self) -> Result<Answer, ClientError> {
        self.answer(Ask::Panic {}).await
    }

    /// The pods that NRI shows, and the node's time; no pods: NRI is not connected.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn pods(&mut self) -> Result<(Time, Option<Vec<NodePod>>), ClientError> {
        match self.ask(Ask::Pods {}).await? {
            Reply::Answer {
                now,
                answer: Answer::Pods { pods },
            } => Ok((now, pods)),
            Reply::Answer { .. } | Reply::Status(_) => Err(ClientError::Unasked),
        }
    }

    /// The process at the other end, if it is visible from here.
    #[must_use]
    pub fn node_pid(&self) -> Option<u32> {
        let credentials = self.lines.get_ref().peer_cred().ok()?;
        u32::try_from(credentials.pid()?).ok()
    }

    /// How the node does.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn status(&mut self) -> Result<NodeStatus, ClientError> {
        match self.ask(Ask::Status {}).await? {
            Reply::Status(status) => Ok(*status),
            Reply::Answer { .. } => Err(ClientError::Unasked),
        }
    }

    async fn answer(&mut self, ask: Ask) -> Result<Answer, ClientError> {
        match self.ask(ask).await? {
            Reply::Answer {
                answer: Answer::Pulls { .. },
                ..
            }
            | Reply::Status(_) => Err(ClientError::Unasked),
            Reply::Answer { answer, .. } => Ok(answer),
        }
    }
}
