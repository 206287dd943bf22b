//! The service that nodes call: checks who it is, and makes a session of the call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, stream};
use jiff::Timestamp;
use magi_master_api::message::Up;
use magi_master_api::wire;
use magi_master_api::wire::nodes_server::Nodes;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::accept::Caller;
use super::identity::Peer;
use super::session::Session;
use crate::counters::Count;

/// Serves the nodes.
pub(super) struct Attendance {
    pub(super) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Nodes for Attendance {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<wire::Down, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<wire::Up>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::internal("the caller is not known"));
        };
        let Peer::Node(name) = &*caller.peer else {
            return Err(Status::permission_denied("this is for nodes"));
        };
        let mut up = request.into_inner();
        let bad = |why: String| {
            shared.counters.one(Count::BadMessage);
            Status::invalid_argument(why)
        };
        let first = match tokio::time::timeout(shared.limits.handshake, up.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Err(bad("the first message has to be a hello".to_owned())),
            Ok(Err(status)) => return Err(status),
            Err(_) => {
                shared.counters.one(Count::RefusedSilent);
                return Err(Status::deadline_exceeded("no hello came"));
            }
        };
        let hello = match Up::try_from(first) {
            Ok(Up::Hello(hello)) => hello,
            Ok(_) => return Err(bad("the first message has to be a hello".to_owned())),
            Err(error) => return Err(bad(error.to_string())),
        };
        if hello.node != name.as_str() {
            shared.counters.one(Count::RefusedName);
            tracing::warn!(certificate = %name, hello = hello.node, "a node says that it is another");
            return Err(Status::permission_denied(
                "the hello names another node than the certificate",
            ));
        }
        let begun = shared
            .nodes
            .begin(name, hello, Instant::now(), Timestamp::now())
            .ok_or_else(|| Status::resource_exhausted("there are too many nodes"))?;
        tracing::info!(node = %name, resumed = begun.is_resumed, lost = begun.lost, "stream begins");
        let audit = shared.store.marks(name);
        let session = Session::start(shared, begun, up, audit, caller.connection);
        let down = stream::unfold(session, |mut session| async move {
            let next = session.next().await?;
            Some((next, session))
        });
        Ok(Response::new(Box::pin(down)))
    }
}
