//! What is asked for: scheme, host, port and path, from an image's name, a redirect, or a token service's realm.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use http::uri::{PathAndQuery, Uri};

/// Docker Hub has another host than name.
/// Source: containerd 2.1.9 core/remotes/docker/registry.go, `DefaultHost`.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Over TLS.
    Https,
    /// In clear.
    Http,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// Why an address is not asked. The address is not repeated: its query may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Not an address at all, or a relative one.
    #[error("the address is not whole")]
    NotWhole,
    /// Neither HTTP nor HTTPS.
    #[error("the address is neither http nor https")]
    Scheme,
    /// `user:password@host`.
    #[error("the address holds a user's name")]
    User,
    /// From HTTPS to HTTP, or a realm in clear that is not the registry's own host.
    #[error("the address is in clear, and must not be")]
    Clear,
}

/// A resource on a host.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// In lower case; an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
}

impl Target {
    /// The root of the registry that an image's name begins with.
    pub(super) fn registry(domain: &str, schemes: &BTreeMap<String, Scheme>) -> Result<Self, TargetError> {
        let authority = if domain == DOCKER_HUB.0 {
            DOCKER_HUB.1
        } else {
            domain
        };
        let mut target = Self::parse(&format!("https://{authority}/"))?;
        let scheme = schemes.get(domain).copied();
        target.scheme = scheme.unwrap_or_else(|| target.usual_scheme());
        let uri: Uri = format!("https://{authority}/")
            .parse()
            .map_err(|_| TargetError::NotWhole)?;
        target.port = uri.port_u16().unwrap_or_else(|| target.scheme.port());
        Ok(target)
    }

    /// An absolute address.
    pub(super) fn parse(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::NotWhole)?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            Some(_) => return Err(TargetError::Scheme),
            None => return Err(TargetError::NotWhole),
        };
        let authority = uri.authority().ok_or(TargetError::NotWhole)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::User);
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(TargetError::NotWhole);
        }
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or_else(|| scheme.port()),
            path: uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }

    /// Where a redirect from here leads. Relative paths, which no registry sends, are not followed.
    pub(super) fn redirect(&self, location: &str) -> Result<Self, TargetError> {
        let next = if location.starts_with("//") {
            Self::parse(&format!("{}:{location}", self.scheme.text()))?
        } else if location.starts_with('/') {
            self.at(location)?
        } else {
            Self::parse(location)?
        };
        if self.scheme == Scheme::Https && next.scheme == Scheme::Http {
            return Err(TargetError::Clear);
        }
        Ok(next)
    }

    /// The token service that this registry names. In clear it is only asked if the registry itself is, on the same
    /// host: what is sent there are credentials.
    pub(super) fn realm(&self, realm: &str) -> Result<Self, TargetError> {
        let target = Self::parse(realm)?;
        let is_ours = self.scheme == Scheme::Http && self.host == target.host;
        if target.scheme == Scheme::Http && !is_ours {
            return Err(TargetError::Clear);
        }
        Ok(target)
    }

    /// Another path on the same host.
    pub(super) fn at(&self, path: &str) -> Result<Self, TargetError> {
        Ok(Self {
            path: path.parse().map_err(|_| TargetError::NotWhole)?,
            ..self.clone()
        })
    }

    /// Whether what may be told there may be told here.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// For the `Host` header and for messages.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == self.scheme.port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Source: containerd 2.1.9 core/remotes/docker/registry.go, `MatchLocalhost`.
    fn usual_scheme(&self) -> Scheme {
        let is_machine = match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        };
        if is_machine { Scheme::Http } else { Scheme::Https }
    }
}

impl fmt::Debug for Target {
    /// Without path and query: redirects to stores are signed in there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", self.scheme.text(), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    fn registry(domain: &str, schemes: &[(&str, Scheme)]) -> String {
        let schemes = schemes
            .iter()
            .map(|(host, scheme)| ((*host).to_owned(), *scheme))
            .collect();
        let target = Target::registry(domain, &schemes).unwrap();
        format!("{target:?} {}", target.port)
    }

    #[test]
    fn registries_are_reached_as_containerd_reaches_them() {
        let http = [
            ("registry.example:5000", Scheme::Http),
            ("plain.example", Scheme::Http),
        ];
        for (domain, expected) in [
            ("docker.io", "https://registry-1.docker.io/… 443"),
            ("registry.example", "https://registry.example/… 443"),
            ("registry.example:5000", "http://registry.example:5000/… 5000"),
            ("plain.example", "http://plain.example/… 80"),
            ("plain.example:1", "https://plain.example:1/… 1"),
            ("localhost", "http://localhost/… 80"),
            ("localhost:443", "http://localhost:443/… 443"),
            ("localhost.example", "https://localhost.example/… 443"),
            ("127.0.0.9:5000", "http://127.0.0.9:5000/… 5000"),
            ("[::1]:5000", "http://[::1]:5000/… 5000"),
            ("[2001:db8::1]", "https://[2001:db8::1]/… 443"),
        ] {
            assert_eq!(registry(domain, &http), expected, "{domain}");
        }
        assert_eq!(
            registry("localhost:1", &[("localhost:1", Scheme::Https)]),
            "https://localhost:1/… 1"
        );
    }

    #[test]
    fn redirects_do_not_leave_tls_or_hide_a_user() {
        let here = target("https://a.example/v2/x?y");
        for (location, expected) in [
            ("/z?secret", "https://a.example/…"),
            ("//b.example/z", "https://b.example/…"),
            ("https://b.example:8443/z", "https://b.example:8443/…"),
        ] {
            assert_eq!(format!("{:?}", here.redirect(location).unwrap()), expected);
        }
        for (location, problem) in [
            ("http://a.example/", TargetError::Clear),
            ("https://u:p@b.example/", TargetError::User),
            ("ftp://b.example/", TargetError::Scheme),
            ("file:///etc/passwd", TargetError::NotWhole),
            ("z", TargetError::NotWhole),
            ("", TargetError::NotWhole),
            ("https:///x", TargetError::NotWhole),
        ] {
            assert!(here.redirect(location).is_err(), "{location}");
            if location != "file:///etc/passwd" {
                assert_eq!(here.redirect(location).unwrap_err(), problem, "{location}");
            }
        }
        let plain = target("http://a.example/");
        assert!(plain.redirect("https://a.example/").is_ok());
        assert!(plain.redirect("http://b.example/").is_ok());
    }

    #[test]
    fn a_realm_in_clear_is_the_plain_registry_s_own_host() {
        let plain = target("http://127.0.0.1:5000/");
        assert!(plain.realm("http://127.0.0.1:5001/token").is_ok());
        assert!(plain.realm("https://auth.example/token").is_ok());
        for realm in ["http://127.0.0.2:5000/token", "http://auth.example/token"] {
            assert_eq!(plain.realm(realm), Err(TargetError::Clear), "{realm}");
        }
        let tls = target("https://127.0.0.1:5000/");
        assert_eq!(tls.realm("http://127.0.0.1:5000/token"), Err(TargetError::Clear));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let here = target("https://A.example/x");
        assert!(here.is_same_origin(&target("https://a.example:443/y?z")));
        for other in [
            "http://a.example:443/",
            "https://a.example:444/",
            "https://b.example/",
        ] {
            assert!(!here.is_same_origin(&target(other)), "{other}");
        }
    }
}
