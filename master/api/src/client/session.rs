//! One connection, from the greeting to its end.

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::Link;
use super::{ClientError, FromMaster, MAX_NEWS, Over, State, ToMaster};
use crate::bounds::SILENT_PINGS;
use crate::decode::DecodeError;
use crate::message::{Down, Fate, PolicyAnswer, PolicyPart, Resume, Verdict};
use crate::policy::{Taken, take};
use crate::wire;

impl State {
    /// Speaks and listens until the connection ends.
    pub(super) async fn attend(
        &mut self,
        link: Link,
        inbound: &mpsc::Sender<FromMaster>,
        outbound: &mut mpsc::Receiver<ToMaster>,
        stop: &CancellationToken,
    ) -> Over {
        let Link {
            welcome,
            up,
            mut down,
        } = link;
        let silence = welcome.ping_every.saturating_mul(SILENT_PINGS);
        let goes_on = self.resume.filter(|resume| resume.token == welcome.token);
        self.resume = goes_on.or(Some(Resume {
            token: welcome.token,
            verdict: 0,
        }));
        for mark in welcome.audit {
            self.keep.stored(mark);
        }
        // A node that does not listen hears of the last connection only, and of all losses.
        let mut verdicts_lost = welcome.verdicts_lost;
        self.news.retain(|news| match news {
            FromMaster::Connected {
                verdicts_lost: unheard,
                ..
            } => {
                verdicts_lost = verdicts_lost.saturating_add(*unheard);
                false
            }
            FromMaster::Disconnected { .. }
            | FromMaster::Policy { .. }
            | FromMaster::Verdict(_)
            | FromMaster::KillSwitch(_)
            | FromMaster::AuditStored(_) => true,
        });
        self.news.push_back(FromMaster::Connected {
            resumed: welcome.resumed,
            verdicts_lost,
        });
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Over::Stopped,
                message = down.message(), if self.news.len() < MAX_NEWS => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(message)) => self.hear(message),
                        Ok(None) => return Over::Broken(ClientError::Closed),
                        Err(status) => return Over::Broken(ClientError::Ended(Box::new(status))),
                    }
                }
                said = outbound.recv() => match said {
                    Some(said) => self.take(said),
                    None => return Over::Stopped,
                },
                permit = up.reserve(), if self.keep.has_something() => match permit {
                    Ok(permit) => if let Some(message) = self.keep.next_up() {
                        permit.send(message.into());
                    },
                    Err(_) => return Over::Broken(ClientError::Closed),
                },
                permit = inbound.reserve(), if !self.news.is_empty() => match permit {
                    Ok(permit) => {
                        self.tell(permit);
                        // While the node did not listen, neither did we: that is not the master's silence.
                        heard = Instant::now();
                    }
                    Err(_) => return Over::Stopped,
                },
                () = tokio::time::sleep_until(heard + silence), if self.news.len() < MAX_NEWS => {
                    return Over::Broken(ClientError::Silent { after: silence });
                }
            }
        }
    }

    fn hear(&mut self, message: wire::Down) {
        let down = match Down::try_from(message) {
            Ok(down) => down,
            Err(DecodeError::Unknown) => return,
            Err(error) => {
                tracing::warn!(%error, "a message from the master makes no sense");
                return;
            }
        };
        match down {
            Down::Welcome(_) => tracing::warn!("the master greets twice"),
            Down::Ping(nonce) => self.keep.pong(nonce),
            Down::Verdict(verdict) => self.hear_verdict(verdict),
            Down::Policy(part) => self.hear_policy(&part),
            Down::KillSwitch(switch) => self.news.push_back(FromMaster::KillSwitch(switch)),
            Down::AuditStored(mark) => {
                self.keep.stored(mark);
                self.news.push_back(FromMaster::AuditStored(mark));
            }
        }
    }

    fn hear_verdict(&mut self, verdict: Verdict) {
        if let Some(resume) = &mut self.resume {
            resume.verdict = resume.verdict.max(verdict.number);
        }
        if self.seen.add(verdict.id) {
            self.news.push_back(FromMaster::Verdict(verdict));
        } else {
            self.answer(verdict.id, Fate::Repeated, "");
        }
    }

    fn hear_policy(&mut self, part: &PolicyPart) {
        let added = self.assembly.add(part);
        let taken = added.and_then(|whole| {
            whole
                .map(|(version, bytes)| {
                    take(self.in_force.as_ref(), &version, &bytes).map(|taken| (taken, version, bytes))
                })
                .transpose()
        });
        match taken {
            Ok(None) => {}
            Ok(Some((Taken::New, version, bytes))) => {
                self.news.push_back(FromMaster::Policy { version, bytes });
            }
            Ok(Some((Taken::Same, version, _))) => {
                self.in_force = Some(version);
                self.keep.answer_policy(PolicyAnswer {
                    version,
                    refused: None,
                });
            }
            Err(why) => {
                tracing::warn!(%why, "a policy of the master is not taken");
                self.keep.answer_policy(PolicyAnswer {
                    version: part.version,
                    refused: Some(why.to_string()),
                });
            }
        }
    }
}
