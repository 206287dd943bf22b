//! Compiles the contract with protox, so that no `protoc` is needed.

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let descriptors = protox::compile(["magi/master/v1/master.proto"], [ROOT])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .codec_path("crate::codec::SmallCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
