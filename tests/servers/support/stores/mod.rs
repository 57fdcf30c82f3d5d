//! Object stores for tests, which `scripts/setup.sh` fetches: an S3 server, and emulators of Google Cloud Storage and of Azure
//! Blob Storage. The library's own tests use this folder too.

pub mod azure;
pub mod google;
pub mod http;
mod kept;
pub mod s3;
