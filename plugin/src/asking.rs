//! Questions from the control socket: to the engine and back, and to a registry where the engine knows too little.

use magi_config::{ResolverMode, ResolverSettings};
use magi_engine::action::Answer;
use magi_engine::event::Question;
use magi_engine::ids::{Digest, ImageName};
use magi_engine::manifest::Manifest;
use magi_engine::reference::Reference;
use magi_engine::{Event, Time};
use magi_node_api::{ErrorCode, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::causes;
use crate::core::Asked;
use crate::manifest;
use crate::resolver::{self, Resolver};

/// The way to the engine's answers.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    engine: mpsc::Sender<Asked>,
    resolver: Option<(Resolver, std::time::Duration)>,
}

impl Asking {
    /// Without a resolver if the settings want none, or if it cannot be had: then the log says why.
    pub(crate) fn new(engine: mpsc::Sender<Asked>, settings: ResolverSettings) -> Self {
        let deadline = settings.deadline;
        let resolver = resolver_of(settings).map(|resolver| (resolver, deadline));
        Self { engine, resolver }
    }

    /// Asks the engine.
    pub(crate) async fn ask(&self, question: Question) -> Result<(Time, Answer), Refusal> {
        self.ask_after(Vec::new(), question).await
    }

    async fn ask_after(&self, before: Vec<Event>, question: Question) -> Result<(Time, Answer), Refusal> {
        let (reply, answered) = oneshot::channel();
        self.engine
            .try_send(Asked {
                before,
                question,
                reply,
            })
            .map_err(|_| Refusal::new(ErrorCode::Busy, "too many questions wait already"))?;
        answered
            .await
            .map_err(|_| Refusal::new(ErrorCode::Late, "magi-node stops and answers no more"))
    }

    /// Whether an image may be pulled. If its manifest is not known it is fetched, and the engine asked once more; if
    /// that fails the image is let in.
    pub(crate) async fn verify(&self, image: ImageName, digest: Digest) -> Result<(Time, Answer), Refusal> {
        let question = || Question::Verify {
            image: image.clone(),
            digest: digest.clone(),
        };
        let (now, answer) = self.ask(question()).await?;
        let (Answer::Admitted { known: false }, Some((resolver, within))) = (&answer, &self.resolver) else {
            return Ok((now, answer));
        };
        let Ok(reference) = Reference::parse(image.as_str()) else {
            return Ok((now, answer));
        };
        let deadline = Instant::now() + *within;
        let documents = match resolver.resolve(&reference, &digest, deadline).await {
            Ok(documents) => documents,
            Err(error) => {
                info!(%image, error = causes::in_one_line(&error), "let in, as its manifest could not be fetched");
                return Ok((now, answer));
            }
        };
        let mut resolved = Vec::new();
        for document in documents {
            let parsed = match manifest::parse(&document.bytes) {
                Ok(parsed) => parsed,
                Err(error) => {
                    debug!(digest = %document.digest, %error, "the registry's document is no manifest");
                    continue;
                }
            };
            let manifest = Manifest {
                digest: document.digest,
                body: parsed.body,
                repositories: Vec::new(),
                foreseen: Vec::new(),
                names_places: parsed.names_places,
            };
            resolved.push(Event::ManifestResolved { manifest });
        }
        self.ask_after(resolved, question()).await
    }
}

fn resolver_of(settings: ResolverSettings) -> Option<Resolver> {
    if settings.mode == ResolverMode::Off {
        return None;
    }
    let made = Resolver::new(resolver::ResolverSettings::new(
        settings.credentials,
        &settings.insecure,
    ));
    made.inspect_err(|error| {
        warn!(
            error = causes::in_one_line(error),
            "no manifests are fetched from registries; images that are not known are let in"
        );
    })
    .ok()
}
