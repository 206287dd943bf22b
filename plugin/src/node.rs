//! The wiring: which source feeds what, and who hears whom. The one module that knows all parts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use magi_config::{MasterLinkSettings, ProbeMode, Settings};
use magi_engine::policy::Policy;
use magi_engine::switch::KillSwitch;
use magi_engine::{Source, Time};
use magi_master_api::client::NodeClient;
use magi_master_api::message::NodeFacts;
use magi_master_api::policy::PolicyVersion;
use magi_master_api::tls::TlsFiles;
use magi_node_api::gateway::Talk;
use magi_node_api::{
    ContainerdStatus, ErrorCode, Handler, Limits, NodeStatus, Peer, PolicyStatus, Refusal, Reply, Request,
    SourceStatus, Verified, VerifierStatus,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::asking::Asking;
use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::core::{Core, Inputs, Sources, Wishes};
use crate::gateways::Gateways;
use crate::inbox;
use crate::levers::{Calls, Remover, Sockets};
use crate::policies::Policies;
use crate::recorder::Recorder;
use crate::sources::containerd::Attached;
use crate::sources::gateway::GatewaySource;
use crate::sources::master::{Held, Kept};
use crate::sources::{containerd, disk, kernel, master, nri, requests, socket_table, switch};

/// Questions that may wait for the engine.
const MAX_ASKED: usize = 64;
/// Changes of pods that may wait; whatever waits longer is asked for anew.
const MAX_POD_CHANGES: usize = 1024;
/// Policies of the master that may wait; it sends the next one when it has heard of the last.
const MAX_PUSHED: usize = 1;
/// Sources that come and go; the master as well, if there is one.
const WATCHED: [Source; 5] = [
    Source::Containerd,
    Source::Probes,
    Source::SocketTable,
    Source::Requests,
    Source::Nri,
];

/// Runs the node agent until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting; once it runs, nothing ends it but a signal.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    kernel::prepare();
    let clock = Clock::start();
    let started = clock.now();
    // The first thing that can be refused: another agent runs already.
    let control = magi_node_api::bind(&settings.control.socket).context("cannot offer the control socket")?;
    let audit = AuditLog::open(
        &settings.audit.path,
        settings.audit.rotate,
        settings.audit.keep,
        hostname(),
        started,
    )
    .context("cannot keep an audit trail, and magi acts on nothing without one")?;
    let recorder = settings
        .trace
        .as_deref()
        .map(|path| Recorder::create(path, settings.trace_max))
        .transpose()
        .context("cannot record a trace")?;
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut terminates = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let (inbox, events) = inbox::inbox();
    let (look, looks) = mpsc::channel(1);
    let (list, lists) = mpsc::channel(1);
    let (ask, asked) = mpsc::channel(MAX_ASKED);
    let (policies, policy_changes) = mpsc::channel(1);
    let (attach, attached) = watch::channel(None);
    let (sources, sources_up) = watch::channel(Sources::default());
    let (policy_said, policy_in_force) = watch::channel(PolicyStatus::of(&Policy::default()));
    let (switched, kill_switch) = watch::channel(KillSwitch::default());
    let (level, probes_running) = watch::channel(kernel::NOT_LOADED);
    let (push, mut pushes) = mpsc::channel(MAX_PUSHED);
    let lost = Arc::new(AtomicU64::new(0));
    let watched: Vec<Source> = WATCHED
        .into_iter()
        .chain(settings.master.as_ref().map(|_| Source::Master))
        .collect();
    let outbox = master::Outbox::new();
    let trail = settings.master.as_ref().map(|_| outbox.trail());
    let stops = trail.as_ref().map(master::Trail::stops).unwrap_or_default();
    let kept = settings
        .master
        .as_ref()
        .map(|master| Kept::in_folder(&master.state));
    let mut policies = Policies::new(settings.policy.clone(), kept, policies, policy_said);

    let gateways = Gateways::default();
    let status = StatusBoard {
        started,
        clock,
        address: settings.containerd.address.clone(),
        audit: settings.audit.path.clone(),
        trace: recorder.is_some(),
        probes: probes_running,
        attached: attached.clone(),
        sources: sources_up.clone(),
        watched: watched.clone(),
        verifier: watch::Sender::default(),
        policy: policy_in_force,
        kill_switch,
        lost: Arc::clone(&lost),
        gateways: gateways.clone(),
    };

    let asking = Asking::new(ask, settings.resolver.clone());
    let mut tasks = JoinSet::new();
    let mut core = Core {
        clock,
        audit,
        trail,
        recorder,
        sockets: Sockets::default(),
        remover: Remover::new(settings.containerd.address.clone()),
        calls: Calls::new(gateways.clone()),
        attached: attached.clone(),
        wishes: Wishes { look, list },
        sources,
        switch: switched,
    };
    core.close_what_an_earlier_run_left_open();
    tasks.spawn(core.run(Inputs {
        events,
        asked,
        policies: policy_changes,
    }));
    policies.start().await;
    tasks.spawn(kernel::run(kernel::Kernel {
        settings: settings.probes.clone(),
        inbox: inbox.clone(),
        attached: attached.clone(),
        lost,
        level,
    }));
    tasks.spawn(socket_table::run(inbox.clone(), lists, attached.clone()));
    let config = requests::Config {
        mode: settings.requests,
        btf: settings.probes.btf.clone(),
        address: settings.containerd.address.clone(),
    };
    tasks.spawn(requests::run(config, inbox.clone(), attached.clone()));
    if settings.nri.mode != ProbeMode::Off {
        let (tell, changes) = mpsc::channel(MAX_POD_CHANGES);
        let config = nri::Config {
            socket: settings.nri.socket.clone(),
            cri: Some(settings.containerd.address.clone()),
        };
        nri::start(config, tell).context("cannot start the NRI plugin's thread")?;
        tasks.spawn(nri::tell(changes, inbox.clone()));
    }
    if let Some(link) = &settings.master {
        let ties = master::Ties {
            inbox: inbox.clone(),
            policies: push,
            outbox,
            asking: asking.clone(),
            stops,
            attached: attached.clone(),
            up: sources_up,
            watched,
            held: Held::in_folder(&link.state),
        };
        tasks.spawn(master::run(client_of(link, policies.pushed()), ties));
    }
    tasks.spawn(disk::run(inbox.clone(), attached.clone()));
    tasks.spawn(switch::run(settings.control.kill_switch.clone(), inbox.clone()));
    let config = containerd::Config {
        address: settings.containerd.address.clone(),
        namespaces: settings.containerd.namespaces.clone(),
        active: settings.poll.active,
        idle: settings.poll.idle,
    };
    let handler = Control {
        gateways: GatewaySource {
            gateways,
            inbox: inbox.clone(),
            asking: asking.clone(),
        },
        asking,
        status,
    };
    tasks.spawn(containerd::run(config, inbox, looks, attach));
    tasks.spawn(async move {
        let Err(broken) = magi_node_api::serve(control, handler, Limits::default()).await;
        error!(
            error = crate::causes::in_one_line(&broken),
            "the control socket is gone"
        );
    });
    info!(socket = %settings.control.socket.display(), "magi-node runs");

    loop {
        tokio::select! {
            _ = hangups.recv() => policies.reload().await,
            Some(pushed) = pushes.recv() => policies.take(pushed).await,
            _ = terminates.recv() => break,
            _ = interrupts.recv() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(failed) = ended {
                    // A defect. What is lost is lost; systemd starts the agent anew, and pulls go on meanwhile.
                    anyhow::bail!("a part of magi-node failed: {failed}");
                }
            }
        }
    }
    info!("magi-node stops; pulls go on");
    Ok(())
}

/// What the status is made of.
#[derive(Clone)]
struct StatusBoard {
    started: Time,
    clock: Clock,
    address: PathBuf,
    audit: PathBuf,
    trace: bool,
    probes: watch::Receiver<&'static str>,
    attached: watch::Receiver<Option<Attached>>,
    sources: watch::Receiver<Sources>,
    watched: Vec<Source>,
    verifier: watch::Sender<VerifierStatus>,
    policy: watch::Receiver<PolicyStatus>,
    kill_switch: watch::Receiver<KillSwitch>,
    lost: Arc<AtomicU64>,
    gateways: Gateways,
}

impl StatusBoard {
    fn status(&self) -> NodeStatus {
        let found = self.attached.borrow().clone();
        let up = self.sources.borrow().clone();
        let source = |source| SourceStatus {
            source,
            up: up.contains(&source),
        };
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: self.clock.now(),
            containerd: ContainerdStatus {
                address: self.address.display().to_string(),
                up: found.is_some(),
                version: found.as_ref().map(|found| found.version.clone()),
                pid: found.as_ref().map(|found| found.pid),
                root: found.map(|found| found.content_root.display().to_string()),
            },
            probes: (*self.probes.borrow()).to_owned(),
            sources: self.watched.iter().copied().map(source).collect(),
            verifier: self.verifier.borrow().clone(),
            gateway: self.gateways.status(),
            policy: self.policy.borrow().clone(),
            kill_switch: self
                .kill_switch
                .borrow()
                .holders()
                .map(|(holder, by)| (holder, by.to_owned()))
                .collect(),
            audit: self.audit.display().to_string(),
            lost_records: self.lost.load(Ordering::Relaxed),
            trace: self.trace,
        }
    }
}

/// What answers on the control socket.
struct Control {
    gateways: GatewaySource,
    asking: Asking,
    status: StatusBoard,
}

impl Handler for Control {
    async fn handle(&self, request: Request, _peer: Peer) -> Result<Reply, Refusal> {
        answer(request, &self.asking, &self.status).await
    }

    async fn gateway(&self, talk: Talk, _peer: Peer) {
        self.gateways.converse(talk).await;
    }
}

async fn answer(request: Request, asking: &Asking, status: &StatusBoard) -> Result<Reply, Refusal> {
    let (now, answer) = match request {
        Request::Status => return Ok(Reply::Status(Box::new(status.status()))),
        Request::Gateway => {
            let why = "a conversation with a gateway begins otherwise";
            return Err(Refusal::new(ErrorCode::Malformed, why));
        }
        Request::Question(question) => asking.ask(question).await?,
        Request::Verify { image, digest } => {
            let question = Verified {
                at: status.clock.now(),
                image: image.clone(),
                digest: digest.clone(),
            };
            status.verifier.send_modify(|verifier| verifier.heard(question));
            asking.verify(image, digest).await?
        }
    };
    Ok(Reply::Answer { now, answer })
}

/// How the node speaks to its master. What it runs the source finds out.
fn client_of(link: &MasterLinkSettings, policy: Option<PolicyVersion>) -> NodeClient {
    NodeClient {
        master: link.address.clone(),
        server_name: link.server_name.clone(),
        tls: TlsFiles {
            certificate: link.certificate.clone(),
            key: link.key.clone(),
            ca: link.ca.clone(),
        },
        // The kubelet names its node so, unless it is told otherwise.
        node: link.node.clone().unwrap_or_else(|| hostname().to_lowercase()),
        facts: NodeFacts::default(),
        policy,
        longest_pause: NodeClient::LONGEST_PAUSE,
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
