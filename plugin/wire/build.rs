//! Compiles the vendored `.proto` files with protox, so that no `protoc` is needed.

const ROOT: &str = "proto";

/// Where the files lie whose messages alone are wanted.
const NRI: &str = "github.com/containerd/nri/";

const FILES: &[&str] = &[
    "github.com/containerd/containerd/api/events/content.proto",
    "github.com/containerd/containerd/api/events/image.proto",
    "github.com/containerd/containerd/api/events/snapshot.proto",
    "github.com/containerd/containerd/api/services/content/v1/content.proto",
    "github.com/containerd/containerd/api/services/events/v1/events.proto",
    "github.com/containerd/containerd/api/services/images/v1/images.proto",
    "github.com/containerd/containerd/api/services/introspection/v1/introspection.proto",
    "github.com/containerd/containerd/api/services/leases/v1/leases.proto",
    "github.com/containerd/containerd/api/services/namespaces/v1/namespace.proto",
    "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.proto",
    "github.com/containerd/containerd/api/services/version/v1/version.proto",
    "github.com/containerd/nri/pkg/api/api.proto",
    "github.com/containerd/ttrpc/request.proto",
    "k8s.io/cri-api/pkg/apis/runtime/v1/api.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut descriptors = protox::compile(FILES, [ROOT])?;
    for file in descriptors
        .file
        .iter_mut()
        .filter(|file| file.name().starts_with(NRI))
    {
        // They are served over ttrpc, for which a gRPC client is of no use.
        file.service.clear();
    }
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .include_file("all.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
