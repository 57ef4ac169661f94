//! Generates the gRPC code. protox parses the files, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/mezite/v1/auth.proto", "proto/mezite/v1/tunnel.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Chunks of sessions and recordings are handed on without a copy.
    tonic_prost_build::configure()
        .bytes(".mezite.v1.TunnelChunk")
        .bytes(".mezite.v1.Chunk")
        .bytes(".mezite.v1.RecordingChunk.data")
        .compile_fds(descriptors)?;
    Ok(())
}
