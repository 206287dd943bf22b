//! Ends one TCP socket and no other: by cookie and both addresses, which the kernel itself compares.

use magi_engine::action::LeverOutcome;
use magi_engine::ids::SocketName;
use magi_sys::{Destroyed, DisconnectError, SocketTable, SocketTableError};

use crate::causes;

/// The kernel's socket table, opened when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// The process whose network namespace the table is of.
    table: Option<(u32, SocketTable)>,
}

impl Sockets {
    /// `SOCK_DESTROY`: the reader gets ECONNABORTED, which containerd does not retry (containerd.md §10).
    pub(crate) fn destroy(&mut self, pid: Option<u32>, socket: &SocketName) -> LeverOutcome {
        let result = self
            .table(pid)
            .and_then(|table| table.destroy(socket.cookie.0, socket.local, socket.remote));
        match result {
            Ok(Destroyed::Closed) => LeverOutcome::Done { count: 1 },
            Ok(Destroyed::AlreadyGone) => LeverOutcome::AlreadyGone,
            Err(error) => refused(&error),
        }
    }

    /// Every one of `sockets`, by whichever way this kernel offers.
    pub(crate) fn destroy_all(&mut self, pid: Option<u32>, sockets: &[SocketName]) -> LeverOutcome {
        let mut count = 0u64;
        let mut failure = None;
        for socket in sockets {
            let mut outcome = self.destroy(pid, socket);
            if matches!(outcome, LeverOutcome::Unsupported { .. }) {
                outcome = self.disconnect(pid, socket);
            }
            match outcome {
                LeverOutcome::Done { count: one } => count = count.saturating_add(one),
                LeverOutcome::AlreadyGone => {}
                LeverOutcome::NotAsExpected { .. }
                | LeverOutcome::Unsupported { .. }
                | LeverOutcome::Failed { .. }
                | LeverOutcome::IntentNotWritten { .. } => failure = Some(outcome),
            }
        }
        match failure {
            Some(failure) if count == 0 => failure,
            Some(_) | None => LeverOutcome::Done { count },
        }
    }

    /// `connect(AF_UNSPEC)` on a duplicate of the process's own descriptor: the reader gets ECONNRESET.
    pub(crate) fn disconnect(&mut self, pid: Option<u32>, socket: &SocketName) -> LeverOutcome {
        let Some(pid) = pid else {
            return LeverOutcome::Failed {
                why: "containerd's process is not known at present".to_owned(),
            };
        };
        let table = match self.table(Some(pid)) {
            Ok(table) => table,
            Err(error) => return refused(&error),
        };
        match magi_sys::disconnect(table, pid, socket.cookie.0, socket.local, socket.remote) {
            Ok(()) => LeverOutcome::Done { count: 1 },
            Err(DisconnectError::NotFound { .. }) => LeverOutcome::AlreadyGone,
            Err(error @ DisconnectError::NotTheSame { .. }) => LeverOutcome::NotAsExpected {
                what: causes::in_one_line(&error),
            },
            Err(error) => LeverOutcome::Failed {
                why: causes::in_one_line(&error),
            },
        }
    }

    /// The table of containerd's network namespace: sock_diag sees no other's sockets (ebpf.md §8.3).
    fn table(&mut self, pid: Option<u32>) -> Result<&SocketTable, SocketTableError> {
        let wanted = pid.unwrap_or(0);
        if self.table.as_ref().is_none_or(|(of, _)| *of != wanted) {
            let table = match pid {
                Some(pid) => SocketTable::open_in_netns_of(pid).or_else(|_| SocketTable::open())?,
                None => SocketTable::open()?,
            };
            self.table = Some((wanted, table));
        }
        match &self.table {
            Some((_, table)) => Ok(table),
            None => Err(SocketTableError::Unavailable),
        }
    }
}

fn refused(error: &SocketTableError) -> LeverOutcome {
    let why = causes::in_one_line(error);
    let for_good = matches!(
        error,
        SocketTableError::Unsupported | SocketTableError::NotPermitted | SocketTableError::Unavailable
    );
    if for_good {
        LeverOutcome::Unsupported { why }
    } else {
        LeverOutcome::Failed { why }
    }
}
