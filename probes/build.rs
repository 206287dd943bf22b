//! Compiles the kernel side with clang. Where there is none, an empty stub is embedded instead, so that
//! everything that needs no kernel still builds and tests; loading the probes then says why it cannot.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

const OBJECTS: [&str; 2] = ["magi", "conversations"];
const HEADERS: [&str; 6] = [
    "bpf/maps.h",
    "bpf/follow.h",
    "bpf/kernel.h",
    "bpf/piece.h",
    "bpf/record.h",
    "bpf/watch.h",
];

fn main() -> Result<(), Box<dyn Error>> {
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    println!("cargo::rerun-if-env-changed=MAGI_CLANG");

    let mut reason = String::new();
    for name in OBJECTS {
        let source = format!("bpf/{name}.bpf.c");
        println!("cargo::rerun-if-changed={source}");
        let object = PathBuf::from(env::var("OUT_DIR")?).join(format!("{name}.bpf.o"));
        if let Outcome::Unavailable(why) = compile(&source, &object)? {
            println!("cargo::warning=magi-probes is built without {name}: {why}");
            fs::write(&object, [])?;
            reason = why;
        }
    }
    println!("cargo::rustc-env=MAGI_PROBES_MISSING={reason}");
    Ok(())
}

enum Outcome {
    Compiled,
    Unavailable(String),
}

fn compile(source: &str, object: &PathBuf) -> Result<Outcome, Box<dyn Error>> {
    let (target, triplet) = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => ("x86", "x86_64-linux-gnu"),
        "aarch64" => ("arm64", "aarch64-linux-gnu"),
        other => {
            return Ok(Outcome::Unavailable(format!(
                "no goroutine register is known for {other}"
            )));
        }
    };
    let clang = env::var_os("MAGI_CLANG").unwrap_or_else(|| OsString::from("clang"));
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpfel", "-mcpu=v2"])
        .arg(format!("-D__TARGET_ARCH_{target}"))
        // The multi-arch headers come last: they must not shadow clang's own.
        .arg(format!("-idirafter/usr/include/{triplet}"))
        .args(["-c", source, "-o"])
        .arg(object)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Outcome::Unavailable(format!("{} was not found", clang.display())));
        }
        Err(error) => return Err(format!("running {}: {error}", clang.display()).into()),
    };
    if output.status.success() {
        return Ok(Outcome::Compiled);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    match complaint.lines().find(|line| line.contains("file not found")) {
        Some(line) => Ok(Outcome::Unavailable(format!(
            "a header is missing (libbpf-dev, linux-libc-dev?): {}",
            line.trim()
        ))),
        None => Err(format!("{} refused the kernel side:\n{complaint}", clang.display()).into()),
    }
}
