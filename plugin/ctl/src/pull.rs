//! `magictl pull`: a CRI client for one call, for nodes without crictl.

use std::convert::Infallible;
use std::env::VarError;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use magi_wire::runtime::v1::image_service_client::ImageServiceClient;
use magi_wire::runtime::v1::{AuthConfig, ImageSpec, PodSandboxConfig, PodSandboxMetadata, PullImageRequest};
use rustix::io::Errno;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::signal::ctrl_c;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use crate::args::{Pod, PullArgs};
use crate::output::{Exit, Failure, complain, print_json, say};
use crate::show::table::{Fill, cut};
use crate::show::{escape, time};

/// Where credentials come from: not from an argument, which every process of the node could read.
const AUTH: &str = "MAGI_REGISTRY_AUTH";

const CONNECT: Duration = Duration::from_secs(5);

/// Characters of the image's name in the line of progress.
const PROGRESS_NAME: usize = 50;

#[derive(Serialize)]
struct PulledJson<'a> {
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
    seconds: f64,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    code: &'static str,
    message: &'a str,
}

/// How the call ended.
enum Ending {
    Returned(Box<Result<String, Status>>),
    Interrupted,
    OutOfTime(Duration),
}

/// `magictl pull`
pub(crate) async fn pull(args: PullArgs) -> Result<Exit, Failure> {
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: args.image.clone(),
            user_specified_image: args.image.clone(),
            ..ImageSpec::default()
        }),
        auth: credentials()?,
        sandbox_config: args.pod.as_ref().map(|pod| sandbox(pod, args.uid.as_deref())),
    };
    let mut client = ImageServiceClient::new(connect(&args.containerd).await?);
    let start = Instant::now();
    // Whatever ends first: dropping the call is what cancels it.
    let ending = tokio::select! {
        result = client.pull_image(request) => {
            Ending::Returned(Box::new(result.map(|response| response.into_inner().image_ref)))
        }
        Ok(()) = ctrl_c() => Ending::Interrupted,
        late = out_of_time(args.timeout) => Ending::OutOfTime(late),
        never = progress(&args.image, start) => match never {},
    };
    drop(client);
    clear_progress();
    report(&args, ending, start.elapsed())
}

fn report(args: &PullArgs, ending: Ending, took: Duration) -> Result<Exit, Failure> {
    let seconds = took.as_secs_f64();
    let json = |image_ref, error| {
        if args.json {
            let json = PulledJson {
                image: &args.image,
                image_ref,
                error,
                seconds,
            };
            let _nothing_more_to_print = print_json(&json)?;
        }
        Ok::<(), Failure>(())
    };
    let (exit, code, message, full) = match ending {
        Ending::Returned(result) => match *result {
            Ok(image) => {
                json(Some(&image), None)?;
                if !args.json {
                    let _nothing_more_to_print = say(&image)?;
                }
                return Ok(Exit::Done);
            }
            Err(status) => {
                let code = code_name(status.code());
                let full = format!("containerd did not pull the image: {} ({code})", status.message());
                (Exit::Failed, code, status.message().to_owned(), full)
            }
        },
        Ending::Interrupted => {
            let message = "interrupted; containerd stops the pull".to_owned();
            (Exit::Interrupted, "interrupted", message.clone(), message)
        }
        Ending::OutOfTime(after) => {
            let message = format!("gave up after {}; containerd stops the pull", time::short(after));
            (Exit::Failed, "timeout", message.clone(), message)
        }
    };
    json(
        None,
        Some(ErrorJson {
            code,
            message: &message,
        }),
    )?;
    Err(Failure::new(exit, full))
}

async fn connect(address: &str) -> Result<Channel, Failure> {
    let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
    let unreachable = |message: String| Failure::new(Exit::Unreachable, message);
    let stream = timeout(CONNECT, UnixStream::connect(path))
        .await
        .map_err(|_| {
            unreachable(format!(
                "containerd did not take the connection on {}",
                path.display()
            ))
        })?
        .map_err(|error| {
            let path = path.display();
            unreachable(match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => format!("is containerd running? there is no {path}; set --containerd"),
                Some(Errno::CONNREFUSED) => format!("is containerd running? nobody listens on {path}"),
                Some(Errno::ACCESS | Errno::PERM) => format!("permission denied on {path}; are you root?"),
                Some(_) | None => format!("cannot connect to {path}: {error}"),
            })
        })?;
    let mut stream = Some(stream);
    let connector = service_fn(move |_| {
        let stream = stream.take();
        async move {
            // One call needs one connection: a second would repeat a pull that may have been stopped on purpose.
            stream
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::other("containerd hung up"))
        }
    });
    Endpoint::from_static("http://containerd")
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::caused(Exit::Unreachable, &error))
}

fn sandbox(pod: &Pod, uid: Option<&str>) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            uid: uid.unwrap_or_default().to_owned(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        ..PodSandboxConfig::default()
    }
}

/// Reads credentials; no message of this function repeats any of them.
fn credentials() -> Result<Option<AuthConfig>, Failure> {
    match std::env::var(AUTH) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(parse_credentials(text))),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::new(
            Exit::Usage,
            format!("{AUTH} is no UTF-8; write USER:PASSWORD or base64"),
        )),
    }
}

fn parse_credentials(text: String) -> AuthConfig {
    match text.split_once(':') {
        Some((username, password)) => AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        },
        None => AuthConfig {
            auth: text,
            ..AuthConfig::default()
        },
    }
}

async fn out_of_time(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// Shows that time passes, where somebody looks.
async fn progress(image: &str, start: Instant) -> Infallible {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let image = cut(&escape::name(image), PROGRESS_NAME, Fill::LeftKeepEnd);
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        let _at = seconds.tick().await;
        clear_progress();
        complain(&format!("pulling {image}  {}", time::short(start.elapsed())));
    }
}

fn clear_progress() {
    if io::stderr().is_terminal() {
        // Blanks rather than a control sequence, which NO_COLOR would remove.
        complain(&format!("\r{:width$}\r", "", width = PROGRESS_NAME + 28));
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
