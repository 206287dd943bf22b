//! A certificate authority for one registry, and a certificate of it for loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// The server's side, and the authority's certificate in a file for its clients.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    ca_der: CertificateDer<'static>,
    ca_file: PathBuf,
}

impl Tls {
    /// A new authority, whose certificate is written into `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let ca_key = KeyPair::generate().context("generate the authority's key")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "magi test authority");
        let ca = params.self_signed(&ca_key).context("sign the authority")?;
        let issuer = Issuer::new(params, ca_key);

        let names = ["127.0.0.1", "::1", "localhost", super::NAME]
            .map(str::to_owned)
            .to_vec();
        let leaf_key = KeyPair::generate().context("generate the server's key")?;
        let leaf = CertificateParams::new(names)
            .context("name the server")?
            .signed_by(&leaf_key, &issuer)
            .context("sign the server")?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .context("set up TLS")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let ca_file = dir.join("ca.pem");
        std::fs::write(&ca_file, ca.pem()).with_context(|| format!("write {}", ca_file.display()))?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca_der: ca.der().clone(),
            ca_file,
        })
    }

    pub(super) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// A client's configuration that trusts this authority and no other.
    pub(super) fn client(&self) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca_der.clone()).context("trust the authority")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}
