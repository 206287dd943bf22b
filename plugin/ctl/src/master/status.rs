//! `magictl master status` and `magictl switch`.

use magi_master_api::wire;
use magi_master_api::wire::admin_client::AdminClient;
use serde::Serialize;
use tonic::Status;
use tonic::transport::Channel;

use super::args::{MasterArgs, StatusArgs, SwitchArgs};
use super::{MasterState, NodeState, Switch, answer, connect, now_ms};
use crate::output::{Exit, Failure, print, print_json, say};
use crate::show;

/// Nodes that one answer may have; a master knows no more.
const MAX_NODES: usize = 20_000;

/// Every node that the master knows, by name.
async fn nodes(client: &mut AdminClient<Channel>) -> Result<Vec<NodeState>, Status> {
    let request = wire::ListNodesRequest {
        prefix: String::new(),
    };
    let mut answers = client.list_nodes(request).await?.into_inner();
    let mut nodes: Vec<NodeState> = Vec::new();
    while let Some(node) = answers.message().await? {
        if nodes.len() >= MAX_NODES {
            return Err(Status::out_of_range("there are more nodes than any master knows"));
        }
        nodes.push(node.into());
    }
    Ok(nodes)
}

/// How the master does, and its nodes.
pub(super) async fn state(master: &MasterArgs) -> Result<(MasterState, Vec<NodeState>), Failure> {
    let mut client = connect(master).await?;
    let status = answer(client.status(wire::StatusRequest {})).await?;
    let nodes = answer(nodes(&mut client)).await?;
    Ok((status.into_inner().into(), nodes))
}

/// `magictl master status`
pub(crate) async fn status(args: StatusArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct StatusJson<'a> {
        now_ms: u64,
        #[serde(flatten)]
        master: &'a MasterState,
        nodes: &'a [NodeState],
    }
    let (master, nodes) = state(&args.master).await?;
    let now_ms = now_ms();
    let _nothing_more_to_print = if args.json {
        print_json(&StatusJson {
            now_ms,
            master: &master,
            nodes: &nodes,
        })?
    } else {
        print(&show::master::status(now_ms, &master, &nodes))?
    };
    Ok(Exit::Done)
}

/// `magictl switch on` and `magictl switch off`
pub(crate) async fn switch(engaged: bool, args: SwitchArgs) -> Result<Exit, Failure> {
    let mut client = connect(&args.master).await?;
    let request = wire::SetKillSwitchRequest {
        engaged,
        reason: args.reason,
    };
    let switch: Switch = answer(client.set_kill_switch(request)).await?.into_inner().into();
    let _nothing_more_to_print = if args.json {
        print_json(&switch)?
    } else if engaged {
        say("The kill switch is on; `magictl master status` shows how many nodes have heard of it.")?
    } else {
        say("The kill switch is off; `magictl master status` shows how many nodes have heard of it.")?
    };
    Ok(Exit::Done)
}
