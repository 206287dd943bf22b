//! The registries of the suite, which know nothing of the containerds that come and go.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Registry;
use crate::proxy::Proxy;
use crate::registry::{Auth, Options};

/// Tokens are that short-lived: a layer of the case outlives several.
const TOKEN: Duration = Duration::from_millis(700);

/// All that can be pulled from.
pub(super) struct World {
    /// Plain, on 127.0.0.1 and ::1.
    pub(super) plain: Registry,
    /// The same on another port.
    pub(super) other: Registry,
    /// On another address.
    pub(super) far: Registry,
    /// With TLS, and HTTP/2 for who asks for it.
    pub(super) tls: Registry,
    /// Asks for tokens that are soon over.
    pub(super) expiring: Registry,
    /// Leads to `tls`.
    pub(super) proxy: Proxy,
}

impl World {
    pub(super) async fn start() -> Result<Self> {
        let expiring = Auth {
            lifetime: TOKEN,
            ..Auth::default()
        };
        let far = Options {
            address: Some(Ipv4Addr::new(127, 0, 0, 2)),
            ..Options::plain()
        };
        let tls = Registry::start_with(Options::tls())?;
        Ok(Self {
            plain: Registry::start()?,
            other: Registry::start()?,
            far: Registry::start_with(far)?,
            proxy: Proxy::start(tls.address()).await.context("the proxy")?,
            tls,
            expiring: Registry::start_with(Options::plain().with_auth(expiring))?,
        })
    }

    pub(super) fn all(&self) -> [&Registry; 5] {
        [&self.plain, &self.other, &self.far, &self.tls, &self.expiring]
    }
}
