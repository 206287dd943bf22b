//! Certificates from files: read with a bound, checked, and read anew when they change. Both sides use it.
//!
//! The files are those of a `kubernetes.io/tls` secret, as cert-manager writes it: `tls.crt`, `tls.key` and `ca.crt`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

/// Bytes that any of the files may have; a chain with its authorities has a few thousand.
const MAX_PEM: usize = 1 << 20;
/// The only protocol that is spoken: HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// Where a certificate lies, its key, and the authorities that the other side's must come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, its intermediates behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// The three files of a mounted secret.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            ca: folder.join("ca.crt"),
        }
    }
}

/// Why there is no TLS to be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{} has more than {MAX_PEM} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no PEM of the kind that is wanted.
    #[error("{} holds no {wanted}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds nothing of the kind that is wanted.
    #[error("{} holds no {wanted}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// An authority that cannot be one.
    #[error("{} holds an authority that cannot be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key do not belong together, or are of no known kind.
    #[error("{} and its key cannot be used together", path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The other side's certificates cannot be checked with these authorities.
    #[error("{} is no set of authorities to check others with", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why, as rustls says.
        problem: String,
    },
}

/// The content of [`TlsFiles`], read at one time.
#[derive(Debug)]
pub struct Material {
    files: TlsFiles,
    /// The certificate and its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The authorities.
    pub roots: Arc<RootCertStore>,
    /// Changes with any of the files.
    pub fingerprint: [u8; 32],
}

impl Material {
    /// Reads the files. They may be replaced at any time; what does not fit together is refused here or by rustls.
    ///
    /// # Errors
    /// One of them cannot be read, or does not hold what it should.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let certificate = read(&files.certificate)?;
        let key = read(&files.key)?;
        let ca = read(&files.ca)?;
        let mut fingerprint = Sha256::new();
        for bytes in [&certificate, &key, &ca] {
            fingerprint.update((bytes.len() as u64).to_le_bytes());
            fingerprint.update(bytes);
        }
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.ca, &ca)? {
            roots.add(authority).map_err(|source| TlsError::Authority {
                path: files.ca.clone(),
                source,
            })?;
        }
        Ok(Self {
            chain: certificates(&files.certificate, &certificate)?,
            key: PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
                path: files.key.clone(),
                wanted: "private key",
                source,
            })?,
            roots: Arc::new(roots),
            fingerprint: fingerprint.finalize().into(),
            files: files.clone(),
        })
    }

    /// Where they come from.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Of a client that shows its certificate, and takes only a server of its authorities. TLS 1.3 only, and no session is
    /// ever taken up again: each connection shows both certificates.
    ///
    /// # Errors
    /// Certificate and key do not belong together.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| self.pair(source))?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.pair(source))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Words an error of the pair of certificate and key.
    #[must_use]
    pub fn pair(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair {
            path: self.files.certificate.clone(),
            source,
        }
    }
}

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(MAX_PEM as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_PEM {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificate";
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            wanted,
            source,
        })?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            wanted,
        });
    }
    Ok(chain)
}
