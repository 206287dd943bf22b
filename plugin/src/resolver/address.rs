//! Which addresses a registry may send us to.

use std::net::IpAddr;

/// Who can be reached at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This machine itself.
    Machine,
    /// Whatever is on the same link: on clouds, the service that hands out the node's own credentials.
    Link,
    /// Everybody, or nobody in particular.
    Open,
}

/// Metadata services outside of the link-local range: AWS over IPv6, Alibaba Cloud, Azure's host agent.
const METADATA: [&str; 3] = ["fd00:ec2::254", "100.100.100.200", "168.63.129.16"];

impl Reach {
    /// Of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        // `::ffff:127.0.0.1` is 127.0.0.1 to the kernel.
        let address = address.to_canonical();
        let is_link = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if address.is_loopback() || address.is_unspecified() {
            Self::Machine
        } else if is_link || address.is_multicast() || METADATA.iter().any(|text| text.parse() == Ok(address))
        {
            Self::Link
        } else {
            Self::Open
        }
    }

    /// Whether a registry that is reached at `self` may send us to `other`.
    pub(super) fn may_send_to(self, other: Self) -> bool {
        other == Self::Open || other == self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        for (text, reach) in [
            ("127.0.0.1", Reach::Machine),
            ("127.8.8.8", Reach::Machine),
            ("0.0.0.0", Reach::Machine),
            ("::1", Reach::Machine),
            ("::", Reach::Machine),
            ("::ffff:127.0.0.1", Reach::Machine),
            ("169.254.169.254", Reach::Link),
            ("::ffff:169.254.169.254", Reach::Link),
            ("fe80::1", Reach::Link),
            ("fd00:ec2::254", Reach::Link),
            ("100.100.100.200", Reach::Link),
            ("168.63.129.16", Reach::Link),
            ("224.0.0.1", Reach::Link),
            ("255.255.255.255", Reach::Link),
            ("ff02::1", Reach::Link),
            ("10.0.0.1", Reach::Open),
            ("192.0.2.1", Reach::Open),
            ("2001:db8::1", Reach::Open),
        ] {
            assert_eq!(Reach::of(text.parse().unwrap()), reach, "{text}");
        }
    }

    #[test]
    fn inwards_leads_only_from_there() {
        for from in [Reach::Machine, Reach::Link, Reach::Open] {
            for to in [Reach::Machine, Reach::Link, Reach::Open] {
                assert_eq!(from.may_send_to(to), to == Reach::Open || from == to);
            }
        }
    }
}
