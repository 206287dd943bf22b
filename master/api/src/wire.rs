//! What is generated from `proto/`. It ends at [`crate::decode`] and [`crate::encode`]; beyond them only the service
//! traits of the two servers and clients are named.
#![expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "what is generated is not ours to shape; the .proto file tells what it means"
)]

tonic::include_proto!("magi.master.v1");
