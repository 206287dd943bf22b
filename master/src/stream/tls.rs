//! The server's TLS: a client certificate or no connection, and certificates read anew while it runs.
//!
//! A change of any of the three files makes a whole new configuration, verifier included, for the connections that come
//! after it. Sessions are never resumed: a resumed one would not show its certificate again.

use std::sync::Arc;
use std::time::Duration;

use magi_master_api::tls::{ALPN, Material, TlsError, TlsFiles, provider};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, ServerConfig};
use tokio::sync::watch;

use crate::counters::{Count, Counters};

/// What new connections get.
pub type Current = watch::Receiver<Arc<ServerConfig>>;

/// Makes the server's configuration.
///
/// # Errors
/// The authorities cannot check anybody, or certificate and key do not belong together.
pub fn config(material: &Material) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&material.roots), provider())
        .build()
        .map_err(|error| TlsError::Verifier {
            path: material.files().ca.clone(),
            problem: error.to_string(),
        })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| material.pair(source))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(material.chain.clone(), material.key.clone_key())
        .map_err(|source| material.pair(source))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Looks at the files every `every`, and publishes what `config` makes of them when they change, for as long as somebody
/// takes it. Files that cannot be used change nothing: they may be half written.
pub async fn follow(
    files: TlsFiles,
    mut fingerprint: [u8; 32],
    config: impl Fn(&Material) -> Result<ServerConfig, TlsError> + Send + Sync + 'static,
    current: watch::Sender<Arc<ServerConfig>>,
    every: Duration,
    counters: Arc<Counters>,
) {
    let config = Arc::new(config);
    let mut last_problem = String::new();
    loop {
        tokio::select! {
            () = current.closed() => return,
            () = tokio::time::sleep(every) => {}
        }
        let (files, config) = (files.clone(), Arc::clone(&config));
        let read = tokio::task::spawn_blocking(move || {
            let material = Material::read(&files)?;
            let config = config(&material)?;
            Ok::<_, TlsError>((material.fingerprint, config))
        });
        let Ok(read) = read.await else { return };
        match read {
            Ok((seen, _)) if seen == fingerprint => last_problem.clear(),
            Ok((seen, config)) => {
                fingerprint = seen;
                last_problem.clear();
                current.send_replace(Arc::new(config));
                counters.one(Count::Reloaded);
                tracing::info!("certificates were changed: new connections use the new ones");
            }
            Err(error) => {
                let problem = error.to_string();
                if problem != last_problem {
                    counters.one(Count::ReloadFailed);
                    tracing::warn!(%error, "certificates were changed into something unusable: the last ones stay");
                    last_problem = problem;
                }
            }
        }
    }
}

/// Which counter a failed handshake belongs to.
#[must_use]
pub fn refusal(error: &std::io::Error) -> Count {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(inner) = inner else {
        return Count::RefusedTls;
    };
    if matches!(inner, rustls::Error::NoCertificatesPresented) {
        return Count::RefusedNoCertificate;
    }
    let rustls::Error::InvalidCertificate(problem) = inner else {
        return Count::RefusedTls;
    };
    use CertificateError as Problem;
    if matches!(
        problem,
        Problem::Expired
            | Problem::ExpiredContext { .. }
            | Problem::NotValidYet
            | Problem::NotValidYetContext { .. }
    ) {
        Count::RefusedExpired
    } else if matches!(problem, Problem::UnknownIssuer | Problem::BadSignature) {
        // Another authority of the same name shows as a signature that is not its.
        Count::RefusedAuthority
    } else {
        Count::RefusedCertificate
    }
}
