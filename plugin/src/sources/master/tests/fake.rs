//! A fake master: the contract's server over TLS, with a person's hand on every word of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use magi_master_api::message::{AuditMark, Down, Hello, Up, Welcome};
use magi_master_api::tls::{Material, TlsFiles};
use magi_master_api::wire;
use magi_master_api::wire::nodes_server::{Nodes, NodesServer};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;
use tonic::{Request, Response, Status, Streaming};

/// Nothing here takes so long unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const NAME: &str = "magi-master";

/// It.
pub(super) struct FakeMaster {
    pub(super) address: SocketAddr,
    streams: mpsc::Receiver<Attending>,
    serving: JoinHandle<()>,
}

/// A node's stream, before it is greeted. Dropped, it is cut.
pub(super) struct Attending {
    pub(super) hello: Hello,
    up: Streaming<wire::Up>,
    down: mpsc::Sender<wire::Down>,
}

impl FakeMaster {
    /// Takes the one node whose certificate lies in `folder` (see [`certificates`]).
    pub(super) async fn start(folder: &Path) -> Self {
        let own = Material::read(&TlsFiles {
            certificate: folder.join("master.crt"),
            key: folder.join("master.key"),
            ca: folder.join("node.crt"),
        })
        .unwrap();
        let mut nodes = RootCertStore::empty();
        for root in Material::read(&node_files(folder)).unwrap().chain {
            nodes.add(root).unwrap();
        }
        let provider = magi_master_api::tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(nodes), Arc::clone(&provider))
            .build()
            .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.chain.clone(), own.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams, attended) = mpsc::channel(4);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, streams) = (acceptor.clone(), streams.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(move |request| {
                        NodesServer::new(Attendance(streams.clone())).call(request)
                    });
                    let _broken = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        Self {
            address,
            streams: attended,
            serving,
        }
    }

    /// The next node that comes.
    pub(super) async fn attended(&mut self) -> Attending {
        let next = tokio::time::timeout(PATIENCE, self.streams.recv());
        next.await.expect("no node came").expect("the master is gone")
    }

    /// The next node that comes, greeted.
    pub(super) async fn greeted(&mut self) -> Attending {
        let attending = self.attended().await;
        attending.greet(Vec::new()).await;
        attending
    }
}

impl Drop for FakeMaster {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Attending {
    /// Greets, and tells what of the trail is stored.
    pub(super) async fn greet(&self, audit: Vec<AuditMark>) {
        self.say(Down::Welcome(Welcome {
            token: 1,
            resumed: false,
            verdicts_lost: 0,
            ping_every: Duration::from_secs(60),
            audit,
        }))
        .await;
    }

    pub(super) async fn say(&self, down: Down) {
        self.down.send(down.into()).await.expect("the node is gone");
    }

    /// The next thing that the node says, but for what is being pulled.
    pub(super) async fn hear(&mut self) -> Up {
        loop {
            let up = self.hear_all().await;
            if !matches!(up, Up::Pulls(_)) {
                return up;
            }
        }
    }

    pub(super) async fn hear_all(&mut self) -> Up {
        let next = tokio::time::timeout(PATIENCE, self.up.message());
        let up = next.await.expect("the node says nothing").unwrap();
        Up::try_from(up.expect("the node went away")).unwrap()
    }
}

struct Attendance(mpsc::Sender<Attending>);

#[tonic::async_trait]
impl Nodes for Attendance {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<wire::Down, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<wire::Up>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let mut up = request.into_inner();
        let first = up.message().await?.expect("a hello");
        let Ok(Up::Hello(hello)) = Up::try_from(first) else {
            panic!("the first message is no hello");
        };
        let (down, said) = mpsc::channel(8);
        let attending = Attending { hello, up, down };
        self.0.send(attending).await.expect("the test listens");
        let said = stream::unfold(said, |mut said: mpsc::Receiver<wire::Down>| async move {
            said.recv().await.map(|down| (Ok(down), said))
        });
        Ok(Response::new(Box::pin(said)))
    }
}

/// Makes certificates for a master and a node.
pub(super) fn certificates(folder: &Path) {
    for (file, name) in [("master", NAME), ("node", "node-a.node.magi")] {
        let own = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(folder.join(format!("{file}.crt")), own.cert.pem()).unwrap();
        std::fs::write(
            folder.join(format!("{file}.key")),
            own.signing_key.serialize_pem(),
        )
        .unwrap();
    }
}

pub(super) fn node_files(folder: &Path) -> TlsFiles {
    TlsFiles {
        certificate: folder.join("node.crt"),
        key: folder.join("node.key"),
        ca: folder.join("master.crt"),
    }
}
