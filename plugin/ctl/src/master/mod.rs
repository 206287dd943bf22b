//! The commands that ask a magi-master, as an operator: where it is, who asks, and what its refusals mean.

pub(crate) mod args;
pub(crate) mod audit;
mod decode;
pub(crate) mod policy;
pub(crate) mod status;

use std::time::{Duration, SystemTime};

use magi_master_api::client::{ClientError, operator};
use magi_master_api::tls::TlsFiles;
use magi_master_api::wire::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::args::MasterArgs;
use crate::output::{Exit, Failure, causes};

pub(crate) use decode::{Intake, MasterState, NodeState, Record, Switch, Version};

/// From the first packet to the end of TLS.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// A question that is no tail is answered within this time: the audit store may have to read a gigabyte.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

const NO_MASTER: &str = "no master is named: say --master HOST:PORT, or set MAGI_MASTER, or name with --settings the \
                         settings of a magi-node that has one";
const NO_CERTIFICATE: &str =
    "name with --tls the folder of an operator's certificate; `magi-master certs --operator NAME` makes one";

/// The host and port of a master, and the name in its certificate.
fn place(args: &MasterArgs) -> Result<(String, String), Failure> {
    let no_master = || Failure::new(Exit::Usage, NO_MASTER);
    let (address, of_settings) = match (&args.master, &args.settings) {
        (Some(address), _) => (address.clone(), None),
        (None, Some(path)) => {
            let settings = magi_config::load_settings(path)
                .map_err(|error| Failure::verbatim(Exit::Failed, error.to_string()))?;
            let link = settings.master.ok_or_else(no_master)?;
            (link.address, Some(link.server_name))
        }
        (None, None) => return Err(no_master()),
    };
    let Some((host, _)) = address.rsplit_once(':') else {
        let why = format!("{address:?} has no port: a master is named HOST:PORT");
        return Err(Failure::new(Exit::Usage, why));
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = args.server_name.clone().or(of_settings).unwrap_or(host);
    Ok((address, name))
}

/// Connects as an operator.
async fn connect(args: &MasterArgs) -> Result<AdminClient<Channel>, Failure> {
    let (address, name) = place(args)?;
    let tls = TlsFiles::in_folder(&args.tls);
    match tokio::time::timeout(CONNECTED_WITHIN, operator(&address, &name, &tls)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(ClientError::Tls(error))) => Err(Failure::new(
            Exit::Failed,
            format!("{}: {NO_CERTIFICATE}", causes(&error)),
        )),
        Ok(Err(error)) => Err(Failure::caused(Exit::Unreachable, &error)),
        Err(_) => Err(Failure::new(
            Exit::Unreachable,
            format!("{address} did not greet within {CONNECTED_WITHIN:?}"),
        )),
    }
}

/// An answer, within reason.
async fn answer<T>(asked: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWERED_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Failure::new(
            Exit::Unreachable,
            format!("the master did not answer within {ANSWERED_WITHIN:?}"),
        )),
    }
}

/// What the master's refusal means.
fn refused(status: &Status) -> Failure {
    if let Some(source) = std::error::Error::source(status) {
        // TLS 1.3 is done before the master has looked at our certificate: that it does not take it shows here.
        let why = causes(source);
        return Failure::new(
            Exit::Unreachable,
            format!("the master broke off ({why}): it is gone, or does not take this certificate"),
        );
    }
    let says = |why: &str| Failure::new(Exit::Failed, format!("the master says: {why}"));
    let why = status.message();
    let code = status.code();
    if code == Code::PermissionDenied {
        says(&format!("{why}: {NO_CERTIFICATE}"))
    } else if code == Code::Unimplemented {
        says("its release cannot do this")
    } else if code == Code::Unavailable {
        Failure::new(Exit::Unreachable, format!("the master broke off: {why}"))
    } else {
        says(why)
    }
}

/// The time by this machine's clock, in milliseconds since the epoch.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(master: Option<&str>) -> MasterArgs {
        MasterArgs {
            master: master.map(ToOwned::to_owned),
            tls: "/nowhere".into(),
            server_name: None,
            settings: None,
        }
    }

    #[test]
    fn a_master_has_an_address_and_a_name() {
        let of = |args: &MasterArgs| place(args).unwrap();
        let both = |address: &str, name: &str| (address.to_owned(), name.to_owned());
        assert_eq!(
            of(&args(Some("m.magi.svc:7443"))),
            both("m.magi.svc:7443", "m.magi.svc")
        );
        assert_eq!(of(&args(Some("[::1]:7443"))), both("[::1]:7443", "::1"));
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("settings.yaml");
        std::fs::write(&settings, "master: { address: 'm:1', serverName: magi-master }\n").unwrap();
        let by_settings = MasterArgs {
            settings: Some(settings),
            ..args(None)
        };
        assert_eq!(of(&by_settings), both("m:1", "magi-master"));
        let other_name = MasterArgs {
            server_name: Some("other".to_owned()),
            ..by_settings
        };
        assert_eq!(of(&other_name), both("m:1", "other"));
        for wrong in [args(None), args(Some("m"))] {
            assert_eq!(place(&wrong).unwrap_err().exit, Exit::Usage);
        }
    }
}
