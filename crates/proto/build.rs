//! Generates the gRPC code. protox parses the files, so no `protoc` is needed.

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script where to write by the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/mezite/v1/auth.proto", "proto/mezite/v1/tunnel.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let rpcs: String = descriptors
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            service.method.iter().map(move |rpc| format!("\"/{package}.{}/{}\",", service.name(), rpc.name()))
        })
        .collect();
    std::fs::write(format!("{}/rpcs.rs", std::env::var("OUT_DIR")?), format!("&[{rpcs}]"))?;
    // Chunks of sessions and recordings are handed on without a copy.
    tonic_prost_build::configure()
        .bytes(".mezite.v1.TunnelChunk")
        .bytes(".mezite.v1.Chunk")
        .bytes(".mezite.v1.RecordingChunk.data")
        .compile_fds(descriptors)?;
    Ok(())
}
